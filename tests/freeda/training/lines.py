"""A task small enough to see through: y = 3x, learnt from one number per example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from freeda.methods.trained import Plan

__all__ = ["Line", "plan"]


class Line:
    """The loss of an example depends on its number only, and on PyTorch's random stream by `noise`."""

    name = "line"

    def __init__(self, noise: float = 0.0) -> None:
        self.network: nn.Module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.figures: Mapping[str, float] = {}
        self.noise = noise
        self.seen: list[list[int]] = []

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        self.seen.append([int(number) for number in numbers])
        x = torch.from_numpy(1 + (numbers % 7)).float()[:, None]
        wanted = 3 * x + self.noise * torch.randn(x.shape)
        self.figures = {"slope": float(self.network.weight.detach())}
        return ((self.network(x).float() - wanted) / x).square().mean()


def plan(steps: int, **changes: Any) -> Plan:
    return Plan(**{"steps": steps, "batch": 8, "learning_rate": 0.1, "ema_decay": 0.9, **changes})
