"""How DiGSeg is trained; `freeda train digseg` asks here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from freeda.errors import TrainingError
from freeda.methods.digseg.method import Frozen
from freeda.methods.digseg.settings import NetworkSettings
from freeda.methods.digseg.task import DigSegTask, QuerySettings, draw_masks
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.methods.trained import PLANNED, Plan, Training, planned
from freeda.methods.trained_weights import split_settings
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.presets import Preset
from freeda.presets.settings import is_number, require
from freeda.presets.toml import changed
from freeda.segmentation.annotations import AnnotatedImages
from freeda.segmentation.views import random_view, require_jitter

__all__ = ["CLOSED", "RECIPES", "STARTED", "build"]

RECIPES = ("one-step", "diffusion")
CLOSED: tuple[str, ...] = ()
STARTED: dict[str, float] = {}
_PLAN = Plan(steps=30_000, batch=8, learning_rate=3e-5, warmup=500, weight_decay=0.01)
_SMALL_PLAN = Plan(steps=6_000, batch=8, learning_rate=5e-4, weight_decay=0.01)
"""For images of `_SMALL_SIDE` pixels."""
_SMALL_SIDE = 256
_JITTER = (0.5, 2.0)
_QUERIES = ("queries", "absent", "jitter")
_MEASURED, _MOST_LOOKED_AT = 96, 2000
"""Masks that say how latents of masks are scaled and read, and images in which they are looked for."""


def build(
    preset: Preset, data: AnnotatedImages, *, recipe: str, device: torch.device, options: Mapping[str, Any]
) -> Training:
    """A training of a preset's UNet.

    recipe: "one-step" predicts a mask at once; "diffusion" denoises it.
    options: fields of `NetworkSettings` and of `QuerySettings`; `pretrained`, whether the UNet begins
        with the pipeline's weights; and `learning_rate`, `warmup`, `weight_decay`, `ema_decay`,
        `max_grad_norm`, `seed` of the plan.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require(recipe in RECIPES, "recipe", recipe, " or ".join(RECIPES))
    held, _ = split_settings(preset, "digseg", NetworkSettings)
    settings = changed(NetworkSettings(), held, "method digseg")
    own = {k: value for k, value in options.items() if k not in (*PLANNED, *_QUERIES, "pretrained")}
    settings = changed(settings, own, "training digseg")
    pretrained = options.get("pretrained", True)
    require(isinstance(pretrained, bool), "pretrained", pretrained, "true or false")
    small = settings.side <= _SMALL_SIDE
    plan, queries = planned(_SMALL_PLAN if small else _PLAN, options), _queries(options, small)
    pipeline = load_pipeline(preset.model_ids("diffusion"), device)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    frozen = Frozen(pipeline, load_clip(preset.model_ids("clip"), device))
    network = _new_network(frozen, settings, plan.seed, pretrained=pretrained)
    pipeline.unet = network.unet  # the original is needed no more
    network.masks.fit(pipeline, _some_masks(data, settings.side, device))
    templates = preset.segmentation.templates
    return Training(
        task=DigSegTask(frozen, network, data, queries, one_step=recipe == "one-step", templates=templates),
        examples=len(data),
        plan=plan,
        settings=asdict(settings),
        frozen=frozen.fingerprints(),
        supervision=f"masks and names of {len(data.classes)} kinds",
        conditions={**asdict(queries), "pretrained": pretrained, "templates": templates},
        limits=(
            "The weights fit the frozen models named above and no others.",
            "Whether other classes than those in training are found depends on what the diffusion model knew "
            "of them.",
        ),
    )


def _new_network(frozen: Frozen, settings: NetworkSettings, seed: int, *, pretrained: bool) -> SegmentingUNet:
    unet = frozen.pipeline.unet
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not pretrained:
            unet = type(unet).from_config(unet.config).to(unet.device)
        return SegmentingUNet(unet, settings, frozen.text_width).to(unet.device)


def _some_masks(data: AnnotatedImages, side: int, device: torch.device) -> torch.Tensor:
    """(B, side, side) masks of classes in images here and there, and an empty one.

    Raises `TrainingError` where no image that is looked at shows one.
    """
    rng = np.random.default_rng(0)
    masks = [np.zeros((side, side), bool)]
    for number in rng.permutation(len(data))[:_MOST_LOOKED_AT]:
        masks += draw_masks(random_view(data.annotated(int(number)), side, (1.0, 1.0), rng)).values()
        if len(masks) > _MEASURED:
            break
    if len(masks) == 1:
        raise TrainingError(
            f"none of {min(len(data), _MOST_LOOKED_AT):,} images shows a class that is learnt; look at the "
            f"data, or name other classes"
        )
    return torch.from_numpy(np.where(np.stack(masks), 1, -1).astype(np.float32)).to(device)


def _queries(options: Mapping[str, Any], small: bool) -> QuerySettings:
    count, absent = (options.get(name, getattr(QuerySettings, name)) for name in ("queries", "absent"))
    require(isinstance(count, int) and count > 0, "queries", count, "a whole number above 0")
    require(is_number(absent, least=0, most=1), "absent", absent, "between 0 and 1")
    jitter = require_jitter(options.get("jitter", (1.0, 1.0) if small else _JITTER))
    return QuerySettings(queries=count, absent=absent, jitter=jitter)
