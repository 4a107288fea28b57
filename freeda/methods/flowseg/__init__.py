"""FlowSeg: segmentation as a flow in pixel space, from an image to the centroids of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.methods.base import Runtime, require_batch, require_switch
from freeda.methods.flowseg.method import FlowSegMethod, TextSpace, Vocabulary
from freeda.methods.flowseg.network import FlowNetwork
from freeda.methods.flowseg.settings import FlowSegSettings, NetworkSettings
from freeda.methods.segmenter import MethodSegmenter
from freeda.methods.trained_weights import TrainedWeights, find_weights
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import load_clip
from freeda.presets import Preset

__all__ = ["load"]

_LARGEST_SHIFT = 0.05
"""Of a centroid along an axis, by half precision: other templates move them several times as far."""
FlowSeg = MethodSegmenter[torch.Tensor, torch.Tensor, Vocabulary]


def load(
    *,
    weights: str | Path | None = None,
    preset: str | Preset | None = None,
    background: bool = False,
    batch: int = 8,
    **options: Any,
) -> FlowSeg:
    """Loads trained weights; those of the recipe "text" also need the CLIP that they were trained with.

    weights: a folder that `freeda train flowseg` wrote; None for the preset's own.
    preset: of the settings and of CLIP; None for the one that the weights were trained with.
    background: whether pixels of none of the classes are labelled as background.
    batch: images that pass the network together.
    options: of the `Runtime`, such as `device`; and fields of `FlowSegSettings`, such as `steps=1`; the
        background's score as `threshold`.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require_switch(background)
    require_batch(batch)
    runtime = Runtime.taken_from(options)
    found = find_weights("flowseg", weights, preset, NetworkSettings)
    trained = found.network_settings(NetworkSettings())
    defaults = FlowSegSettings(steps=1) if trained.objective == "cross-entropy" else FlowSegSettings()
    settings = found.settings(defaults, options)
    network = FlowNetwork(trained, torch.zeros(len(found.checkpoint.classes), trained.dimensions))
    Checkpoint.load_weights(found.folder, network)
    texts = _texts(found, network, runtime) if trained.centroids == "text" else None
    network.eval().requires_grad_(False).to(runtime.torch_device, runtime.dtype)
    method = FlowSegMethod(
        network,
        found.checkpoint,
        settings,
        texts=texts,
        background=background,
        batch=batch,
    )
    return MethodSegmenter(method, threads=runtime.threads)


def _texts(found: TrainedWeights, network: FlowNetwork, runtime: Runtime) -> TextSpace:
    """What placed the classes in training; raises `ConfigError` where it does not place them there again."""
    clip = load_clip(found.preset.model_ids("clip"), runtime.torch_device, runtime.dtype)
    found.require_frozen({"clip": clip.fingerprint()})
    classes = [ClassName(names[0], tuple(names[1:])) for names in found.checkpoint.classes]
    texts = TextSpace.of(clip, found.preset.segmentation.templates, classes)
    placed = texts.place(classes, network.settings.dimensions)
    if (placed - network.centroids).abs().max() > _LARGEST_SHIFT:
        raise ConfigError(
            f"'{found.folder}' was trained with other templates than preset '{found.preset.name}' has; load "
            f"it with the preset it was trained with, '{found.checkpoint.preset}', or train again"
        )
    return texts
