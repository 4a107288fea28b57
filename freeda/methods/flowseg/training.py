"""How FlowSeg is trained; `freeda train flowseg` asks here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from freeda.methods.flowseg.centroids import place_centroids
from freeda.methods.flowseg.method import TextSpace
from freeda.methods.flowseg.network import FlowNetwork
from freeda.methods.flowseg.settings import NetworkSettings
from freeda.methods.flowseg.task import FlowSegTask, LossSettings
from freeda.methods.trained import PLANNED, Plan, Training, planned
from freeda.methods.trained_weights import split_settings
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets import Preset
from freeda.presets.settings import is_number, require
from freeda.presets.toml import changed
from freeda.segmentation.annotations import AnnotatedImages
from freeda.segmentation.views import require_jitter

__all__ = ["CLOSED", "RECIPES", "STARTED", "build"]

RECIPES = ("labels", "text")
CLOSED = ("labels",)
"""What can name only the classes that it was trained on."""
_PLAN = Plan(steps=160_000, batch=16, learning_rate=1e-4, warmup=1500, weight_decay=0.01)
_SMALL_PLAN = Plan(steps=8_000, batch=16, learning_rate=1.5e-3, weight_decay=0.0)
"""For images of `_SMALL_SIDE` pixels."""
_SMALL_SIDE = 256
_SMALL_LOSS = LossSettings(class_weight=5.0, pretrained=0.5, time_power=2.0)
"""There are no weights to begin with."""
_LARGE_LOSS = LossSettings(jitter=(0.5, 2.0))
_LOSS = tuple(item.name for item in fields(LossSettings))
STARTED = {"pretrained": 0.0}
"""What is usual where a training begins with another's weights."""
_TEXT_DIMENSIONS = 16


def build(
    preset: Preset, data: AnnotatedImages, *, recipe: str, device: torch.device, options: Mapping[str, Any]
) -> Training:
    """A training of a fresh network.

    recipe: "labels" places classes by number, and knows no others; "text" by CLIP's embeddings of names.
    options: fields of `NetworkSettings` and of `LossSettings`; and `learning_rate`, `warmup`, `weight_decay`,
        `ema_decay`, `max_grad_norm`, `seed` of the plan.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require(recipe in RECIPES, "recipe", recipe, " or ".join(RECIPES))
    settings = _settings(preset, recipe, options)
    small = settings.side <= _SMALL_SIDE
    plan, losses = planned(_SMALL_PLAN if small else _PLAN, options), _losses(options, small)
    aligned = bool(settings.align_width and losses.align_weight)
    backbone = load_backbone(preset.model_ids("backbone"), device) if aligned else None
    width = backbone.width if backbone else 0
    asked = options.get("align_width", width)
    require(asked in (0, width), "align_width", asked, f"{width}, the backbone's, or 0 for no alignment")
    settings = replace(settings, align_width=width, classifier=_is_classified(losses, options))
    centroids, frozen = _centroids(preset, data, settings, device, plan.seed)
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        network = FlowNetwork(settings, centroids).to(device)
    return Training(
        task=FlowSegTask(network, data, losses, backbone=backbone),
        examples=len(data),
        plan=plan,
        settings=asdict(settings),
        frozen=frozen,
        supervision=f"label maps of {len(data.classes)} kinds",
        conditions={
            **asdict(losses),
            "backbone": backbone.fingerprint() if backbone else "",
            **({"templates": preset.segmentation.templates} if recipe == "text" else {}),
        },
        limits=(
            "Where it places other classes than those in training was never learnt."
            if recipe == "text"
            else "No other classes than those in training can be named.",
        ),
    )


def _is_classified(losses: LossSettings, options: Mapping[str, Any]) -> bool:
    """Whether tokens are; an option may say the same, and nothing else."""
    found = losses.class_weight > 0
    asked = options.get("classifier", found)
    require(asked is found, "classifier", asked, f"{found}, for class_weight is {losses.class_weight}")
    return found


def _settings(preset: Preset, recipe: str, options: Mapping[str, Any]) -> NetworkSettings:
    held, _ = split_settings(preset, "flowseg", NetworkSettings)
    settings = changed(NetworkSettings(), held, "method flowseg")
    if recipe == "text":
        settings = replace(settings, centroids="text", dimensions=_TEXT_DIMENSIONS)
    own = {name: value for name, value in options.items() if name not in (*PLANNED, *_LOSS)}
    settings = changed(settings, own, "training flowseg")
    require((settings.centroids == "text") == (recipe == "text"), "centroids", settings.centroids, recipe)
    return settings


def _losses(options: Mapping[str, Any], small: bool) -> LossSettings:
    usual = _SMALL_LOSS if small else _LARGE_LOSS
    own = {name: value for name, value in options.items() if name in _LOSS}
    losses = replace(usual, **{**own, "jitter": require_jitter(own.get("jitter", usual.jitter))})
    for name in ("align_weight", "class_weight"):
        require(is_number(getattr(losses, name), least=0), name, getattr(losses, name), "0 or more")
    share = losses.pretrained
    require(is_number(share, least=0) and share <= 1, "pretrained", share, "0 to 1")
    require(is_number(losses.time_power, above=0), "time_power", losses.time_power, "above 0")
    return losses if losses.class_weight else replace(losses, pretrained=0.0)


def _centroids(
    preset: Preset, data: AnnotatedImages, settings: NetworkSettings, device: torch.device, seed: int
) -> tuple[torch.Tensor, Mapping[str, str]]:
    """(C, D), and fingerprints of the models that they stand on."""
    if settings.centroids != "text":
        placed = place_centroids(settings.centroids, len(data.classes), settings.dimensions, seed)
        return torch.from_numpy(placed), {}
    clip = load_clip(preset.model_ids("clip"), device, torch.float32)
    texts = TextSpace.of(clip, preset.segmentation.templates, data.classes)
    return texts.place(data.classes, settings.dimensions), {"clip": clip.fingerprint()}
