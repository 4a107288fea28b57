"""One training loop for all three models: a time budget, checkpoints, resume after a kill, EMA."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from freeda.files import replacing

__all__ = ["Plan", "Task", "fit"]

_REPORT_SECONDS = 30.0
_CHECKPOINT_SECONDS = 120.0


class Task(Protocol):
    """What is trained. `network` holds every trained parameter.

    loss: depends on its arguments only: scene numbers, a random stream, and the share of the training that is
    done, from 0 to 1.
    """

    name: str
    network: nn.Module

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast. Training ends at `steps` or `minutes`, whichever comes first;
    the learning rate falls to zero along whichever of the two is further.
    """

    steps: int
    minutes: float
    batch: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    seed: int = 0


class _State:
    """Everything a checkpoint holds: weights, their running mean, the optimiser, the clock.

    Statistics that a network gathers itself (batch norm's) count as weights that nothing optimises.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        self.parameters = dict(network.named_parameters())
        self.weights = {n: w for n, w in network.state_dict().items() if w.is_floating_point()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), plan.learning_rate, (0.9, 0.98), weight_decay=plan.weight_decay
        )
        self.average = {name: w.clone() for name, w in self.weights.items()}
        self.step = 0
        self.elapsed = 0.0

    def save(self, path: Path) -> None:
        tensors = {f"weights.{n}": w.contiguous() for n, w in self.weights.items()}
        tensors |= {f"average.{n}": a.contiguous() for n, a in self.average.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value.contiguous()
        with replacing(path) as partial:
            save_file(tensors, partial, {"step": str(self.step), "elapsed": repr(self.elapsed)})

    def load(self, path: Path, device: torch.device) -> None:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata, held = file.metadata(), set(file.keys())
            for name, weight in self.weights.items():
                weight.copy_(file.get_tensor(f"weights.{name}"))
                self.average[name].copy_(file.get_tensor(f"average.{name}"))
            for name, parameter in self.parameters.items():
                self.optimizer.state[parameter] = {
                    key: file.get_tensor(f"adam.{key}.{name}")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam.{key}.{name}" in held
                }
        self.step, self.elapsed = int(metadata["step"]), float(metadata["elapsed"])


def fit(task: Task, count: int, plan: Plan, folder: Path, device: torch.device) -> None:
    """Trains `task.network` on scenes 0 .. count - 1 and leaves it holding the averaged weights.

    A checkpoint is written every two minutes to `folder`/NAME.safetensors; called again, training
    resumes from it. The batch of a step depends on the seed and the step only.
    """
    state = _State(task.network, plan)
    checkpoint = folder / f"{task.name}.safetensors"
    if checkpoint.exists():
        state.load(checkpoint, device)
    _run(task, state, count, plan, checkpoint, device)
    for name, weight in state.weights.items():
        weight.copy_(state.average[name])
    task.network.eval()


def _run(task: Task, state: _State, count: int, plan: Plan, checkpoint: Path, device: torch.device) -> None:
    task.network.train()
    started = time.monotonic() - state.elapsed
    reported = saved = time.monotonic()
    losses: list[float] = []
    while (progress := _progress(state, plan)) < 1:
        losses.append(_step(task, state, count, plan, progress, device))
        now = time.monotonic()
        state.elapsed = now - started
        if now - reported > _REPORT_SECONDS:
            _report(task.name, state, plan, losses)
            reported, losses = now, []
        if now - saved > _CHECKPOINT_SECONDS:
            state.save(checkpoint)
            saved = now
    state.save(checkpoint)
    _report(task.name, state, plan, losses or [math.nan])


def _progress(state: _State, plan: Plan) -> float:
    return max(state.step / plan.steps, state.elapsed / (plan.minutes * 60))


def _step(task: Task, state: _State, count: int, plan: Plan, progress: float, device: torch.device) -> float:
    rng = np.random.default_rng([plan.seed, state.step])
    rate = plan.learning_rate * min(1.0, (state.step + 1) / plan.warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
    with _attention(device), torch.autocast(device.type, torch.bfloat16):
        loss = task.loss(np.sort(rng.choice(count, plan.batch, replace=False)), rng, progress)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(list(state.parameters.values()), 1.0)
    state.optimizer.step()
    state.step += 1
    decay = min(plan.ema_decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for name, weight in state.weights.items():
            state.average[name].lerp_(weight, 1 - decay)
    return float(loss.detach())


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the fused attention's backward pass takes longer than plain products do."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _report(name: str, state: _State, plan: Plan, losses: list[float]) -> None:
    rate = state.step / max(state.elapsed, 1e-9)
    minutes = state.elapsed / 60
    print(  # noqa: T201 - the training command's own progress
        f"{name}: step {state.step} of {plan.steps}, {minutes:.1f} of {plan.minutes:.0f} min, "
        f"{rate:.2f} steps/s, loss {np.mean(losses):.4f}",
        flush=True,
    )
