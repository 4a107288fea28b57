"""How ODISE is trained; `freeda train odise` asks here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import torch

from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.odise.task import OdiseTask, Recipe
from freeda.methods.trained import PLANNED, Plan, Training, planned
from freeda.methods.trained_weights import split_settings
from freeda.presets import Preset
from freeda.presets.settings import require
from freeda.presets.toml import changed
from freeda.segmentation.annotations import AnnotatedImages
from freeda.segmentation.views import require_jitter

__all__ = ["CLOSED", "RECIPES", "STARTED", "build"]

RECIPES: tuple[str, ...] = get_args(Recipe)
CLOSED: tuple[str, ...] = ()
STARTED: dict[str, float] = {}
_PLAN = Plan(steps=90_000, batch=64, learning_rate=1e-4, warmup=500, weight_decay=0.05, max_grad_norm=0.01)
"""The paper's, with a cosine in place of two steps."""
_SMALL_PLAN = Plan(steps=20_000, batch=8, learning_rate=4e-4, weight_decay=0.05)
"""For images of `_SMALL_SIDE` pixels."""
_SMALL_SIDE = 256
_JITTER = (0.1, 2.0)


def build(
    preset: Preset, data: AnnotatedImages, *, recipe: str, device: torch.device, options: Mapping[str, Any]
) -> Training:
    """A training of a fresh network on a preset's frozen models.

    options: fields of `NetworkSettings`; `jitter`, the range of scales at which images are seen; and
        `learning_rate`, `warmup`, `weight_decay`, `ema_decay`, `max_grad_norm`, `seed` of the plan.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    require(recipe in RECIPES, "recipe", recipe, " or ".join(RECIPES))
    held, _ = split_settings(preset, "odise", NetworkSettings)
    settings = changed(NetworkSettings(), held, "method odise")
    own = {name: value for name, value in options.items() if name not in (*PLANNED, "jitter")}
    settings = changed(settings, own, "training odise")
    small = settings.side <= _SMALL_SIDE
    plan = planned(_SMALL_PLAN if small else _PLAN, options)
    jitter = require_jitter(options.get("jitter", (1.0, 1.0) if small else _JITTER))
    frozen = load_frozen(preset, settings, device, torch.float32)
    network = new_network(frozen, settings, plan.seed)
    task = OdiseTask(
        frozen,
        network,
        settings,
        data,
        recipe=_as_recipe(recipe),
        templates=preset.segmentation.templates,
        jitter=jitter,
    )
    return Training(
        task=task,
        examples=len(data),
        plan=plan,
        settings=asdict(settings),
        frozen=frozen.fingerprints(),
        supervision=_supervision(data, recipe),
        conditions={"jitter": jitter, "templates": preset.segmentation.templates},
        limits=(
            "The weights fit the frozen models named above and no others.",
            "Other classes than those in training are told apart by CLIP, and by what the text space carries "
            "over.",
        ),
    )


def _as_recipe(name: str) -> Recipe:
    return "captions" if name == "captions" else "labels"


def _supervision(data: AnnotatedImages, recipe: str) -> str:
    named = "captions" if recipe == "captions" else f"names of {len(data.classes)} kinds"
    return f"masks and {named}"
