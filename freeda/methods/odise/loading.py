"""Frozen models and an untrained network, for training and for segmenting alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from freeda.methods.odise.network import FrozenModels, OdiseNetwork
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.odise.taps import TappedPipeline
from freeda.models.clip import load_clip
from freeda.models.diffusion import cast_pipeline, load_pipeline, pipeline_fingerprint
from freeda.presets import Preset

__all__ = ["load_frozen", "new_network"]


def load_frozen(
    preset: Preset,
    settings: NetworkSettings,
    device: torch.device,
    dtype: torch.dtype,
    *,
    check: Callable[[Mapping[str, str]], None] = lambda fingerprints: None,
) -> FrozenModels:
    """The preset's diffusion model and CLIP; raises `ModelNotFoundError`, `ConfigError`.

    check: is called with their fingerprints before anything is asked of their architecture.
    """
    # As bfloat16, weights have too few digits to be known again.
    first = torch.float16 if dtype == torch.bfloat16 else dtype
    pipeline = load_pipeline(preset.model_ids("diffusion"), device, first)
    weights = pipeline_fingerprint(pipeline)
    if first != dtype:
        cast_pipeline(pipeline, dtype)
    clip = load_clip(preset.model_ids("clip"), device, dtype)
    check({"diffusion": weights, "clip": clip.fingerprint()})
    tapped = TappedPipeline(
        pipeline, settings.taps, timestep=settings.timestep, noise_seed=settings.noise_seed
    )
    return FrozenModels(tapped, clip, weights)


def new_network(frozen: FrozenModels, settings: NetworkSettings, seed: int = 0) -> OdiseNetwork:
    """A network with fresh weights, the same for the same seed, on the frozen models' device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = OdiseNetwork(frozen, settings)
    return network.to(frozen.clip.device)
