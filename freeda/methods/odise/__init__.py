"""ODISE (Xu et al., CVPR 2023): panoptic segmentation by a head trained on a frozen diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freeda.class_names import parse_classes
from freeda.methods.base import Runtime, require_batch, require_switch
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.method import EncodedImage, OdiseMethod, PreparedImage, Vocabulary
from freeda.methods.odise.network import FrozenModels, OdiseNetwork
from freeda.methods.odise.settings import NetworkSettings, OdiseSettings
from freeda.methods.segmenter import MethodSegmenter
from freeda.methods.trained_weights import TrainedWeights, find_weights
from freeda.models.checkpoint import Checkpoint
from freeda.presets import Preset

__all__ = ["load"]

_CAPTION_WEIGHTS = {"seen_weight": 0.35, "unseen_weight": 0.65}
"""The released code's for what was learnt from captions; a preset's are for labels."""
Odise = MethodSegmenter[PreparedImage, EncodedImage, Vocabulary]


def load(
    *,
    weights: str | Path | None = None,
    stuff: str | Sequence[str] | None = None,
    preset: str | Preset | None = None,
    background: bool = False,
    batch: int = 4,
    **options: Any,
) -> Odise:
    """Loads trained weights, and the frozen models that they stand on.

    weights: a folder that `freeda train odise` wrote; None for the preset's own.
    stuff: classes without instances, "sky; grass" or a list; None for those of the training.
    preset: of the frozen models; None for the one that the weights were trained on.
    background: whether pixels of none of the classes are labelled as background.
    batch: crops that are encoded together.
    options: of the `Runtime`, such as `device`; and fields of `OdiseSettings`, such as `overlap=0.5`; the
        background's score as `threshold`.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require_switch(background)
    require_batch(batch)
    runtime = Runtime.taken_from(options)
    found = find_weights("odise", weights, preset, NetworkSettings)
    if stuff is not None:
        options["stuff"] = _names(stuff)
    if found.checkpoint.recipe == "captions":
        options = {**_CAPTION_WEIGHTS, **options}
    settings = found.settings(OdiseSettings(), options)
    frozen, network = _models(found, runtime)
    method = OdiseMethod(
        frozen,
        network,
        found.checkpoint,
        found.preset.segmentation.templates,
        settings,
        background=background,
        batch=batch,
    )
    return MethodSegmenter(
        method, size_of=lambda image: image.grid.rows * image.grid.columns, threads=runtime.threads
    )


def _models(found: TrainedWeights, runtime: Runtime) -> tuple[FrozenModels, OdiseNetwork]:
    """The frozen models, which must be those of the training, and the trained network."""
    trained = found.network_settings(NetworkSettings())
    frozen = load_frozen(
        found.preset, trained, runtime.torch_device, runtime.dtype, check=found.require_frozen
    )
    network = new_network(frozen, trained)
    Checkpoint.load_weights(found.folder, network)
    return frozen, network.eval().requires_grad_(False)


def _names(stuff: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(name for item in parse_classes(stuff) for name in item.names) if stuff else ()
