"""One process or several, through accelerate: precision, and what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from freeda.errors import ConfigError

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """All processes of a training; `torchrun` starts more than one."""

    accelerator: Any

    @classmethod
    def of(cls, device: torch.device) -> Processes:
        """Computes in bfloat16, but for what needs more. Raises `ConfigError` where accelerate is not
        installed, or the device has no bfloat16.
        """
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ConfigError(
                "training needs accelerate, which is not installed: pip install 'freeda[train]'"
            ) from error
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        try:
            return cls(Accelerator(mixed_precision="bf16", cpu=device.type == "cpu"))
        except ValueError as error:
            raise ConfigError(f"device '{device}' cannot train: {error}; choose another --device") from error

    @property
    def device(self) -> torch.device:
        found: torch.device = self.accelerator.device
        return found

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def autocast(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def mean(self, value: torch.Tensor) -> float:
        """Of a scalar over all processes."""
        return float(self.accelerator.reduce(value, "mean") if self.count > 1 else value)

    def agreed(self, value: float) -> float:
        """The main process's value."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each gradient becomes its mean over all processes; one that a process lacks counts as zero, and
        what all lack stays without.
        """
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        held = torch.tensor([float(p.grad is not None) for p in parameters]).to(gradients[0])
        flat = self.accelerator.reduce(torch.cat([held, *(one.reshape(-1) for one in gradients)]), "mean")
        held, *parts = flat.split([len(held), *(one.numel() for one in gradients)])
        for parameter, part, share in zip(parameters, parts, held.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if share else None
