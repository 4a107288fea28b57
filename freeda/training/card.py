"""The model card of a trained method: what it learnt from, how long, what it measures, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freeda.methods.trained import Plan, Training
from freeda.models.checkpoint import Checkpoint
from freeda.training.loop import Progress

__all__ = ["full_cost", "model_card"]


def model_card(
    checkpoint: Checkpoint,
    training: Training,
    data: Mapping[str, Any],
    plan: Plan,
    reached: Progress,
    figures: Mapping[str, str],
) -> str:
    """As Markdown.

    data: identity of the images; "start" is the fingerprint of the weights that the training began with.
    figures: what was measured, by name; none where the data are not the toy world.
    """
    trained = sum(weight.numel() for weight in training.task.network.parameters())
    names = ", ".join(names[0] for names in checkpoint.classes)
    limits = "".join(f"- {limit}\n" for limit in training.limits)
    figures = figures or {"held-out figures": "none measured; `freeda evaluate` does"}
    measured = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""# {checkpoint.method}, trained with `freeda train`

| | |
|---|---|
| supervision | {training.supervision} |
| data | {_data(data, training.examples, reached.step * plan.batch)} |
| began with | {_start(data)} |
| recipe | {checkpoint.recipe} |
| frozen models | {_frozen(checkpoint)} |
| trained parameters | {trained:,} |
| steps | {reached.step:,} of {plan.steps:,}, {plan.batch} images each |
| time | {reached.seconds / 60:.0f} min |
| loss at the end | {reached.loss:.3f} |
{measured}

Classes in training: {names}.

`curve.png` shows the loss. `freeda segment --method {checkpoint.method} --weights FOLDER` uses these weights.

## Limits

{limits}- {full_cost(training.plan, plan, reached)}
"""


def full_cost(full: Plan, plan: Plan, reached: Progress) -> str:
    """What a full training takes, at the speed that was measured."""
    images = reached.step * plan.batch
    if not images or reached.seconds <= 0:
        return "Nothing was trained."
    hours = full.steps * full.batch * reached.seconds / images / 3600
    share = images / (full.steps * full.batch)
    return (
        f"A full training, {full.steps:,} steps of {full.batch} images, takes {hours:.1f} h at this speed; "
        f"this one saw {min(share, 1):.1%} of it."
    )


def _data(data: Mapping[str, Any], images: int, drawn: int) -> str:
    named = " ".join(str(data[key]) for key in ("dataset", "data", "content") if key in data)
    return f"{named}: {images:,} images, from which {drawn:,} were drawn"


def _start(data: Mapping[str, Any]) -> str:
    return f"other weights, {data['start']}" if "start" in data else "new weights"


def _frozen(checkpoint: Checkpoint) -> str:
    if not checkpoint.frozen:
        return "none"
    digests = ", ".join(f"{role} {digest}" for role, digest in checkpoint.frozen.items())
    return f"preset `{checkpoint.preset}`: {digests}"
