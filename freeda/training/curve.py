"""How a training went: a row of figures per few steps, as CSV and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from freeda.errors import OutputError, TrainingError, reason
from freeda.files import replacing

__all__ = ["Curve", "mean_figures"]

_STEPS_PER_ROW = 10


class Curve:
    """The means of every ten steps' figures. Rows are kept in memory and written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, float]] = []
        self._pending: list[Mapping[str, float]] = []

    def resume(self, step: int) -> None:
        """Reads what an interrupted training wrote, up to a step. Raises `TrainingError`."""
        if self.path.exists():
            self._rows = [row for row in self._read() if row["step"] <= step]

    def _read(self) -> list[dict[str, float]]:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                return [
                    {name: float(value or "nan") for name, value in row.items()}
                    | {"step": int(float(row["step"])), "loss": float(row["loss"])}
                    for row in csv.DictReader(file)
                ]
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise TrainingError(
                f"'{self.path}' is damaged ({reason(error)}); remove it, and the training goes on without "
                f"the curve so far"
            ) from error

    def add(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        self._pending.append(figures)
        if step % _STEPS_PER_ROW == 0:
            self._rows.append({"step": step, "seconds": round(seconds, 1), **mean_figures(self._pending)})
            self._pending = []

    def latest(self, name: str, rows: int = 10) -> float:
        """The mean of a figure's last rows; NaN where there are none."""
        values = [row[name] for row in self._rows[-rows:]] or [item[name] for item in self._pending]
        return _mean(values) if values else math.nan

    def save(self) -> None:
        if not self._rows:
            return
        try:
            with replacing(self.path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
                names = dict.fromkeys(name for row in self._rows for name in row)
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(self._rows)
        except OSError as error:
            raise OutputError(
                f"cannot write '{self.path}': {reason(error)}; make room and run the same command again"
            ) from error

    def draw(self, path: Path) -> None:
        """The loss by step, as a PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([row["step"] for row in self._rows], [row["loss"] for row in self._rows], linewidth=0.8)
        axes.set(xlabel="step", ylabel="loss", yscale="log")
        axes.grid(alpha=0.3)
        with replacing(path) as partial:
            figure.savefig(partial, dpi=120, format="png")


def mean_figures(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure that the last of them have, over all."""
    return {name: _mean([item.get(name, math.nan) for item in figures]) for name in figures[-1]}


def _mean(values: list[float]) -> float:
    """Of those that are numbers; NaN where none is."""
    numbers = [value for value in values if not math.isnan(value)]
    return round(sum(numbers) / len(numbers), 6) if numbers else math.nan
