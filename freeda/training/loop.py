"""The training loop of every trained model: budgets, checkpoints, resume after a kill, averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from freeda.errors import ConfigError, TrainingError
from freeda.methods.trained import Plan, Task
from freeda.training.curve import Curve, mean_figures
from freeda.training.processes import Processes
from freeda.training.state import TrainingState

__all__ = ["DivergedError", "Plan", "Progress", "Task", "fit"]

_REPORT_SECONDS = 30.0
_CHECKPOINT_SECONDS = 120.0
_LONGEST_WARMUP = 0.1
"""As a share of the training."""


class DivergedError(TrainingError):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Progress:
    """How far a training is. loss: the mean since the last report."""

    name: str
    step: int
    steps: int
    seconds: float
    seconds_left: float
    loss: float

    def __str__(self) -> str:
        rate = self.step / max(self.seconds, 1e-9)
        return (
            f"{self.name}: step {self.step:,} of {self.steps:,}, loss {self.loss:.4f}, {rate:.2f} steps/s, "
            f"{_duration(self.seconds_left)} left"
        )


def fit(
    task: Task,
    count: int,
    plan: Plan,
    folder: Path,
    device: torch.device,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains `task.network` on examples 0 .. count - 1 and leaves it holding the averaged weights, also where
    it fails.

    Every two minutes `folder`/NAME.state.safetensors and NAME.curve.csv are replaced; called again, training
    resumes from them. The batch of a step depends on the plan's seed, the step and the process only.
    Returns how far the training came.
    Raises `DivergedError` where loss or gradient are not finite, after the state before that is saved;
    `TrainingError`; `OutputError` where nothing can be written, the state last saved is kept then.
    """
    processes = Processes.of(device)
    if plan.batch < processes.count:
        raise ConfigError(
            f"batch is {plan.batch}; expected at least one image for each of {processes.count} processes"
        )
    if plan.at_once is not None and plan.batch % processes.count:
        raise ConfigError(
            f"batch is {plan.batch}; expected a multiple of {processes.count}, the processes, with at_once"
        )
    state = TrainingState(task.network, plan.learning_rate, plan.weight_decay)
    checkpoint = folder / f"{task.name}.state.safetensors"
    curve = Curve(folder / f"{task.name}.curve.csv")
    if checkpoint.exists():
        state.load(checkpoint)
    curve.resume(state.step)
    fitting = _Fitting(task, state, count, plan, checkpoint, curve, processes, on_progress)
    try:
        fitting.run()
    finally:
        state.use_average()
        task.network.eval()
    return fitting.progress(curve.latest("loss"))


@dataclass
class _Fitting:
    """One call of `fit`."""

    task: Task
    state: TrainingState
    count: int
    plan: Plan
    checkpoint: Path
    curve: Curve
    processes: Processes
    on_progress: Callable[[Progress], None]

    def run(self) -> None:
        self.task.network.train()
        started = time.monotonic() - self.state.elapsed
        reported = saved = time.monotonic()
        losses: list[float] = []
        while (progress := self._progress()) < 1:
            losses.append(self._step(progress))
            now = time.monotonic()
            self.state.elapsed = now - started
            if now - reported > _REPORT_SECONDS:
                self._report(losses)
                reported, losses = now, []
            if now - saved > _CHECKPOINT_SECONDS:
                self._save()
                saved = now
        self._save()
        if losses:
            self._report(losses)

    def _progress(self) -> float:
        """Share of the training that is done; all processes agree on it."""
        return self.processes.agreed(self._done())

    def _done(self) -> float:
        return max(self.state.step / self.plan.steps, self.state.elapsed / (self.plan.minutes * 60))

    def _step(self, progress: float) -> float:
        state, plan, rate = self.state, self.plan, self._rate(progress)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss, measured = self._gradients(progress)
        parameters = list(state.parameters.values())
        self.processes.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, plan.max_grad_norm)
        found = self.processes.mean(loss)
        self._require_finite(found, float(norm))
        state.optimizer.step()
        state.advance(plan.ema_decay)
        figures = {"loss": found, "learning_rate": rate, **measured}
        self.curve.add(state.step, state.elapsed, figures)
        return found

    def _gradients(self, progress: float) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Accumulates the process's gradients of a step; returns the loss and the task's figures, means over
        the passes.
        """
        numbers, rng = self._batch()
        losses: list[torch.Tensor] = []
        figures: list[Mapping[str, float]] = []
        for some in np.array_split(numbers, self._passes()):
            with _attention(self.processes.device), self.processes.autocast():
                loss = self.task.loss(some, rng, progress) * (len(some) / len(numbers))
            loss.backward()
            losses.append(loss.detach())
            figures.append(self.task.figures)
        return torch.stack(losses).sum(), mean_figures(figures)

    def _passes(self) -> int:
        """The same for all processes."""
        if self.plan.at_once is None:
            return 1
        return -(-self.plan.batch // self.processes.count // self.plan.at_once)

    def _rate(self, progress: float) -> float:
        """Rises for `warmup` steps, or for a tenth of a short training; then falls as a cosine does."""
        rising = min(1.0, max((self.state.step + 1) / self.plan.warmup, progress / _LONGEST_WARMUP))
        return self.plan.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * progress))

    def _batch(self) -> tuple[np.ndarray, np.random.Generator]:
        """The process's share of the step's examples, and its random stream; PyTorch's is seeded alike."""
        plan, step, rank = self.plan, self.state.step, self.processes.rank
        rng = np.random.default_rng([plan.seed, step])
        numbers = np.sort(rng.choice(self.count, plan.batch, replace=self.count < plan.batch))
        if self.processes.count > 1:
            rng = np.random.default_rng([plan.seed, step, rank])
        torch.manual_seed(int(np.random.default_rng([plan.seed, step, rank, 1]).integers(2**62)))
        return numbers[rank :: self.processes.count], rng

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self._save()
        self.processes.wait()  # one that ends would end the others while they save
        raise DivergedError(
            f"{self.task.name}: at step {self.state.step:,} the loss is {loss}, the norm of its gradient "
            f"{norm}; the state before it is saved in '{self.checkpoint}'; start again in a new folder with "
            f"a lower learning_rate"
        )

    def _save(self) -> None:
        if self.processes.is_main:
            self.state.save(self.checkpoint)
            self.curve.save()

    def _report(self, losses: list[float]) -> None:
        if self.processes.is_main:
            self.on_progress(self.progress(float(np.mean(losses))))

    def progress(self, loss: float) -> Progress:
        state, done = self.state, min(1.0, self._done())
        left = state.elapsed * (1 - done) / max(done, 1e-9)
        return Progress(self.task.name, state.step, self.plan.steps, state.elapsed, left, loss)


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU the fused attention's backward pass takes longer than plain products do."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
