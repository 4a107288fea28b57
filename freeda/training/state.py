"""All that a training must remember, as one file of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from freeda.errors import OutputError, TrainingError, reason
from freeda.files import replacing

__all__ = ["TrainingState"]

_ADAM = ("step", "exp_avg", "exp_avg_sq")


class TrainingState:
    """Weights, their running mean, the optimiser and the clock.

    Statistics that a network gathers itself (batch norm's) count as weights that nothing optimises.
    elapsed: seconds trained.
    """

    def __init__(self, network: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.parameters = dict(network.named_parameters())
        self.weights = {n: w for n, w in network.state_dict().items() if w.is_floating_point()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), learning_rate, (0.9, 0.98), weight_decay=weight_decay
        )
        self.average = {name: w.clone() for name, w in self.weights.items()}
        self.step = 0
        self.elapsed = 0.0

    @torch.no_grad()
    def advance(self, decay: float) -> None:
        """Counts a step, and moves the mean towards the weights."""
        self.step += 1
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def use_average(self) -> None:
        """The network's weights become their mean."""
        for name, weight in self.weights.items():
            weight.copy_(self.average[name])

    def save(self, path: Path) -> None:
        """Replaces the file whole. Raises `OutputError`; the old file is then as it was."""
        tensors = {f"weights.{n}": w.contiguous() for n, w in self.weights.items()}
        tensors |= {f"average.{n}": a.contiguous() for n, a in self.average.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value.contiguous()
        try:
            with replacing(path) as partial:
                save_file(tensors, partial, {"step": str(self.step), "elapsed": repr(self.elapsed)})
        except (OSError, SafetensorError) as error:
            told = reason(error) if isinstance(error, OSError) else str(error)
            kept = "the state saved before is kept" if path.exists() else "nothing was saved before"
            raise OutputError(
                f"cannot save '{path}' at step {self.step:,}: {told}; {kept}; make room and run the same "
                f"command again"
            ) from error

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Raises `TrainingError` for a file that is damaged or another network's."""
        try:
            with safe_open(path, "pt") as file:
                metadata, held = file.metadata() or {}, set(file.keys())
                self._require_same(path, {name: file.get_slice(name).get_shape() for name in held})
                step, elapsed = int(metadata["step"]), float(metadata["elapsed"])
                for name, weight in self.weights.items():
                    weight.copy_(file.get_tensor(f"weights.{name}"))
                    self.average[name].copy_(file.get_tensor(f"average.{name}"))
                for name, parameter in self.parameters.items():
                    self.optimizer.state[parameter] = {
                        key: _beside(parameter, key, file.get_tensor(f"adam.{key}.{name}"))
                        for key in _ADAM
                        if f"adam.{key}.{name}" in held
                    }
        except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"'{path}' cannot be read: {str(error).splitlines()[0]}; delete it to begin anew"
            ) from error
        self.step, self.elapsed = step, elapsed

    def _require_same(self, path: Path, held: Mapping[str, list[int]]) -> None:
        """held: shapes by name. A parameter that never had a gradient has no moments."""
        wanted = {
            f"{part}.{name}": list(w.shape)
            for part in ("weights", "average")
            for name, w in self.weights.items()
        }
        for name, parameter in self.parameters.items():
            if any(f"adam.{key}.{name}" in held for key in _ADAM):
                shape = list(parameter.shape)
                wanted |= {f"adam.{key}.{name}": [] if key == "step" else shape for key in _ADAM}
        names = sorted(wanted.keys() | held.keys())
        if different := [name for name in names if wanted.get(name) != held.get(name)]:
            raise TrainingError(
                f"'{path}' is another network's ({len(different)} tensors differ, first {different[0]}); "
                f"choose another folder"
            )


def _beside(parameter: nn.Parameter, key: str, value: torch.Tensor) -> torch.Tensor:
    """A moment on its parameter's device; Adam keeps its count of steps on the CPU."""
    return value if key == "step" else value.to(parameter.device)
