"""A run of `freeda train`: a folder that holds one training, from its first step to its model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from freeda.errors import OutputError, TrainingError, reason
from freeda.files import replacing
from freeda.locking import locked
from freeda.methods import TRAINED
from freeda.methods.trained import Plan, Training
from freeda.models.checkpoint import CARD, RUN, Checkpoint
from freeda.training.card import model_card
from freeda.training.curve import Curve
from freeda.training.loop import DivergedError, Progress, fit
from freeda.training.processes import Processes

__all__ = ["TrainingRun"]


@dataclass(frozen=True)
class TrainingRun:
    """A training in its folder.

    settings: everything that its result depends on, as plain data.
    """

    folder: Path
    training: Training
    plan: Plan
    checkpoint: Checkpoint
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls, folder: Path, training: Training, plan: Plan, checkpoint: Checkpoint, data: Mapping[str, Any]
    ) -> TrainingRun:
        """data: identity of the training images, and what else they are learnt by."""
        settings = {
            **asdict(checkpoint),
            "data": dict(data),
            "plan": asdict(plan),
            "conditions": dict(training.conditions),
        }
        return cls(folder, training, plan, checkpoint, json.loads(json.dumps(settings)))

    @contextmanager
    def opened(self, processes: Processes, *, overwrite: bool = False) -> Iterator[None]:
        """Keeps other runs out of the folder, and starts or resumes this one in it. The main process does so
        for all.

        Raises `OutputError` for a folder in use or with other files, `TrainingError` for another run's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write to '{self.folder}': {reason(error)}; choose another --out"
            ) from error
        with locked(self.folder) if processes.is_main else nullcontext():
            if processes.is_main:
                if overwrite:
                    self._clear()
                self._claim()
            processes.wait()
            yield

    def fit(self, device: torch.device, on_progress: Callable[[Progress], None]) -> Progress:
        """Trains, or goes on; returns how far it came. Raises `TrainingError`, `OutputError`."""
        task, training = self.training.task, self.training
        try:
            return fit(task, training.examples, self.plan, self.folder, device, on_progress=on_progress)
        except DivergedError as error:
            processes = Processes.of(device)
            if processes.is_main:
                self.checkpoint.write(self.folder, task.network)
            processes.wait()
            raise TrainingError(f"{error}, and --start {self.folder} for its weights so far") from error

    def finish(self, reached: Progress, figures: Mapping[str, str]) -> list[Path]:
        """Writes weights, configuration, curve and card; returns their paths. Raises `OutputError`.

        figures: what was measured, for the card.
        """
        self.checkpoint.write(self.folder, self.training.task.network)
        curve = Curve(self.folder / f"{self.training.task.name}.curve.csv")
        curve.resume(reached.step)
        data = self.settings["data"]
        card = model_card(self.checkpoint, self.training, data, self.plan, reached, figures)
        try:
            curve.draw(self.folder / "curve.png")
            with replacing(self.folder / CARD) as partial:
                partial.write_text(card, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write to '{self.folder}': {reason(error)}; make room") from error
        names = ("model.safetensors", "config.json", CARD, "curve.png")
        return [self.folder / name for name in names]

    def _claim(self) -> None:
        path = self.folder / RUN
        if not path.exists():
            if held := sorted(item.name for item in self.folder.iterdir() if not item.name.startswith(".")):
                raise OutputError(
                    f"'{self.folder}' is no run of `freeda train` and holds other files ({held[0]}); name an "
                    f"empty or new folder"
                )
            self._mark(path)
            return
        try:
            held_settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"'{path}' is damaged ({reason(error)}); add --overwrite") from error
        if changed := list(_differences(held_settings, self.settings)):
            raise TrainingError(
                f"'{self.folder}' holds another run ({'; '.join(changed[:4])}); choose another --out or add "
                f"--overwrite"
            )

    def _mark(self, path: Path) -> None:
        try:
            with replacing(path) as partial:
                partial.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {reason(error)}; choose another --out") from error

    def _clear(self) -> None:
        """Only a run's own files are removed, whichever method's it is."""
        if not (self.folder / RUN).exists():
            return
        endings = ("state.safetensors", "curve.csv")
        named = [self.folder / f"{method}.{ending}" for method in TRAINED for ending in endings]
        written = ("model.safetensors", "config.json", "curve.png", CARD, RUN)  # last what says whose it is
        for path in (*named, *(self.folder / name for name in written)):
            path.unlink(missing_ok=True)


def _differences(held: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in sorted({*held, *wanted}, key=lambda key: (key != "method", key)):
            yield from _differences(held.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif held != wanted:
        yield f"{name} {_short(held)} instead of {_short(wanted)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
