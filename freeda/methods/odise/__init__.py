"""ODISE (Xu et al., CVPR 2023): panoptic segmentation by a head trained on a frozen diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freeda.methods.base import SETTING_NAMES, Runtime, as_preset, require_switch
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.method import EncodedImage, OdiseMethod, PreparedImage, Vocabulary
from freeda.methods.odise.settings import NetworkSettings, OdiseSettings, parts
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.checkpoint import Checkpoint
from freeda.presets import Preset
from freeda.presets.settings import require
from freeda.presets.toml import changed

__all__ = ["load"]

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
    batch: images of one size that pass the models at once.
    options: of the `Runtime`, such as `device`; and fields of `OdiseSettings`, such as `overlap=0.5`; the
        background's score as `threshold`.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require_switch(background)
    require(isinstance(batch, int) and batch > 0, "batch", batch, "a whole number above 0")
    runtime = Runtime.taken_from(options)
    folder = str(weights) if weights is not None else as_preset(preset or "toy").model_ids("odise")[0]
    checkpoint = Checkpoint.read(folder, "odise")
    chosen = as_preset(preset or checkpoint.preset)
    if stuff is not None:
        options["stuff"] = _names(stuff)
    _, held = parts(chosen.methods.get("odise", {}))
    settings = changed(OdiseSettings(), held, "method odise")
    settings = changed(settings, options, "method odise", SETTING_NAMES)
    trained = changed(NetworkSettings(), checkpoint.settings, f"checkpoint '{folder}'")
    frozen = load_frozen(chosen, trained, runtime.torch_device, runtime.dtype)
    checkpoint.require_frozen(folder, frozen.fingerprints())
    network = new_network(frozen, trained)
    Checkpoint.load_weights(folder, network)
    method = OdiseMethod(
        frozen,
        network.eval().requires_grad_(False),
        checkpoint,
        chosen.segmentation.templates,
        settings,
        background=background,
        batch=batch,
    )
    return MethodSegmenter(method, threads=runtime.threads)


def _names(stuff: str | Sequence[str]) -> tuple[str, ...]:
    listed = stuff.split(";") if isinstance(stuff, str) else stuff
    return tuple(name.strip() for name in listed if name.strip())
