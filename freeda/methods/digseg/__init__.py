"""DiGSeg: a diffusion model's UNet, trained to paint the mask of a class that it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from freeda.methods.base import Runtime, require_batch, require_switch
from freeda.methods.digseg.method import DigSegMethod, EncodedImage, Frozen, Vocabulary
from freeda.methods.digseg.sampling import last_step
from freeda.methods.digseg.settings import DigSegSettings, NetworkSettings
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.methods.segmenter import MethodSegmenter
from freeda.methods.trained_weights import TrainedWeights, find_weights
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import load_clip
from freeda.models.diffusion import cast_pipeline, load_pipeline
from freeda.presets import Preset
from freeda.presets.settings import require

__all__ = ["load"]

DigSeg = MethodSegmenter[torch.Tensor, EncodedImage, Vocabulary]


def load(
    *,
    weights: str | Path | None = None,
    preset: str | Preset | None = None,
    background: bool = False,
    batch: int = 16,
    **options: Any,
) -> DigSeg:
    """Loads trained weights, and the frozen models that they stand on.

    weights: a folder that `freeda train digseg` wrote; None for the preset's own.
    preset: of the frozen models; None for the one that the weights were trained on.
    background: whether pixels of none of the classes are labelled as background.
    batch: classes that pass the UNet together.
    options: of the `Runtime`, such as `device`; and fields of `DigSegSettings`, such as `decoded=16`; the
        background's score as `threshold`.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require_switch(background)
    require_batch(batch)
    runtime = Runtime.taken_from(options)
    found = find_weights("digseg", weights, preset, NetworkSettings)
    settings = found.settings(DigSegSettings(), options)
    frozen, network = _models(found, runtime)
    most = last_step(frozen.schedule) + 1
    require(settings.steps <= most, "methods.digseg.steps", settings.steps, f"{most} at most")
    method = DigSegMethod(
        frozen,
        network,
        found.checkpoint,
        found.preset.segmentation.templates,
        settings,
        background=background,
        classes_at_once=batch,
    )
    # The UNet takes seconds per image: one read ahead is enough.
    return MethodSegmenter(method, threads=runtime.threads or 1)


def _models(found: TrainedWeights, runtime: Runtime) -> tuple[Frozen, SegmentingUNet]:
    """The frozen models, which must be those of the training, and the trained network."""
    trained = found.network_settings(NetworkSettings())
    device, dtype = runtime.torch_device, runtime.dtype
    pipeline = load_pipeline(found.preset.model_ids("diffusion"), device)
    frozen = Frozen(pipeline, load_clip(found.preset.model_ids("clip"), device, dtype))
    found.require_frozen(frozen.fingerprints())
    network = SegmentingUNet(pipeline.unet, trained, frozen.text_width).to(device)
    Checkpoint.load_weights(found.folder, network)
    pipeline.unet = network.unet  # the original is needed no more
    cast_pipeline(pipeline, dtype)
    return frozen, network.eval().requires_grad_(False)
