"""What a trained method is: a `Method` with a network that somebody must train first.

Its package holds a module `training` with `RECIPES`, the names of what it can learn from; `CLOSED`, those of
them whose networks know only the classes that they were trained on; `STARTED`, options that are usual where
it begins with another training's weights; and `build`, which gives a `Training`.
Segmenting imports neither that module nor `freeda.training`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from freeda.errors import TrainingError
from freeda.presets.settings import is_number, require

__all__ = ["PLANNED", "EmptyImages", "Plan", "Task", "Training", "planned"]

PLANNED = ("learning_rate", "warmup", "weight_decay", "ema_decay", "max_grad_norm", "seed")
"""What a training's options may change of its plan."""
_MOST_EMPTY = 1000
"""Images in a row."""


class Task(Protocol):
    """What is trained.

    name: of the files that the training writes.
    network: holds every trained parameter, and nothing that is not trained.
    figures: of the latest loss, what else is worth a column of the curve.
    """

    @property
    def name(self) -> str: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def figures(self) -> Mapping[str, float]: ...

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        """The loss of some examples, given by number. It depends on its arguments and on PyTorch's random
        stream only.

        progress: share of the training that is done, from 0 to 1.
        """


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast. Training ends at `steps` or `minutes`, whichever comes first; the learning rate
    falls to zero along whichever of the two is further.

    A training that ends by its steps gives the same weights whether it was interrupted or not; one that ends
    by the clock does not.
    batch: examples per step, of all processes together.
    at_once: examples per pass of the network in each process; a step's gradients are accumulated over its
        passes, and what is a mean over a batch is one over a pass. None for all.
    max_grad_norm: gradients of a larger norm are scaled down to it.
    """

    steps: int
    minutes: float = math.inf
    batch: int
    at_once: int | None = None
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, name, value, "a whole number above 0")
        several = self.at_once is None or (isinstance(self.at_once, int) and self.at_once > 0)
        require(several, "at_once", self.at_once, "a whole number above 0")
        for name in ("minutes", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            require(value == math.inf or is_number(value, above=0), name, value, "above 0")
        require(is_number(self.weight_decay, least=0), "weight_decay", self.weight_decay, "0 or more")
        share = is_number(self.ema_decay, least=0) and self.ema_decay < 1
        require(share, "ema_decay", self.ema_decay, "at least 0 and below 1")
        require(isinstance(self.seed, int) and self.seed >= 0, "seed", self.seed, "a whole number, 0 or more")


def planned(plan: Plan, options: Mapping[str, Any]) -> Plan:
    """A plan with what a training's options say of it."""
    return replace(plan, **{name: options[name] for name in PLANNED if name in options})


class EmptyImages:
    """Notices data that show none of what is to be learnt.

    what: is looked for in vain, as a message says it.
    """

    def __init__(self, what: str = "show none of the classes that are learnt") -> None:
        self._what = what
        self._in_a_row = 0

    def count(self, images: int, *, empty: bool) -> None:
        """Of one pass. Raises `TrainingError` after too many images in a row that are empty."""
        self._in_a_row = self._in_a_row + images if empty else 0
        if self._in_a_row >= _MOST_EMPTY:
            raise TrainingError(
                f"{self._in_a_row:,} images in a row {self._what}; look at the data, or name other classes"
            )


@dataclass(frozen=True)
class Training:
    """A training that can begin.

    examples: how many there are.
    plan: of a full training.
    settings: of the method, as the checkpoint holds them.
    frozen: fingerprints of the models that are not trained, by role.
    supervision: what the network learns from, for people.
    conditions: what else the result depends on, as plain data.
    limits: of the trained network, as sentences for its card.
    """

    task: Task
    examples: int
    plan: Plan
    settings: Mapping[str, Any]
    frozen: Mapping[str, str]
    supervision: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
