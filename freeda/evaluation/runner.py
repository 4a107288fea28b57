"""Runs a segmenter over a data set. Every finished image is one line of a log, so that runs can resume."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeda.errors import DatasetError, OutputError, reason
from freeda.evaluation.datasets import Dataset, label_names
from freeda.evaluation.layouts import IGNORED
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.files import replacing
from freeda.methods.base import Segmenter
from freeda.segmentation.decision import Foreground
from freeda.segmentation.result import Segmentation

__all__ = ["THRESHOLDS", "ImageRecord", "Run", "evaluate"]

THRESHOLDS = (np.arange(100) / 100).astype(np.float32)
"""Thresholds of the background that are tried on the test labels."""
_RUN, _IMAGES, _PREDICTIONS = "run.json", "images.jsonl", "predictions"


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image's result.

    seconds: since the result before, for images pass the models in groups.
    miou: over the classes of this image.
    paths: how many regions, or classes, were handled in which way.
    pairs: (true label, predicted label, pixels).
    foreground: where there is a background: (true label, best class, number of `THRESHOLDS` below its score,
        pixels).
    """

    name: str
    seconds: float
    miou: float
    paths: Mapping[str, int]
    pairs: Sequence[tuple[int, int, int]]
    foreground: Sequence[tuple[int, int, int, int]] = ()


@dataclass(frozen=True)
class Run:
    """All of an evaluation: the data set, its labels' names and every image's record."""

    dataset: Dataset
    names: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    settings: Mapping[str, Any]

    def matrix(self) -> ConfusionMatrix:
        total = ConfusionMatrix(len(self.names))
        for record in self.records:
            total.add_pairs(record.pairs)
        return total

    def at_thresholds(self) -> Iterator[tuple[float, ConfusionMatrix]]:
        """What each of `THRESHOLDS` would have given."""
        classes = len(self.names)
        counts = np.zeros((len(THRESHOLDS) + 1, classes, classes + 1), np.int64)
        for record in self.records:
            for true, label, below, pixels in record.foreground:
                counts[below, true, label] += pixels
        kept, lost = counts.sum(0), np.zeros(classes, np.int64)
        for number, threshold in enumerate(THRESHOLDS if kept.any() else ()):
            kept = kept - counts[number]
            lost = lost + counts[number].sum(1)
            matrix = ConfusionMatrix(classes)
            matrix.add_counts(kept)
            matrix.add_counts(np.pad(lost[:, None], ((0, 0), (0, classes))))
            yield round(float(threshold), 2), matrix


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    out: str | Path,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    save_predictions: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Segments a data set's images, or the first `limit`, and compares them with the truth.

    out: where the run is logged. A run of the same data set and segmenter there is resumed; another one is
        refused, unless `overwrite`.
    save_predictions: whether to keep label maps, numbered as the data set's own files.
    on_progress: called with images done and in all.
    Raises `DatasetError`, `OutputError`.
    """
    out = Path(out)
    complete = {**dataset.identity, **segmenter.identity}
    count = min(limit or len(dataset), len(dataset))
    records = _open_run(out, complete, overwrite)
    if save_predictions:
        records = [r for r in records if (out / _PREDICTIONS / f"{r.name}.png").exists()]
    done = {record.name for record in records}
    pending = [number for number in range(count) if dataset.name(number) not in done]
    on_progress(count - len(pending), count)
    segmenter.set_classes(dataset.classes)
    results = segmenter.stream(dataset.image(number) for number in pending)
    with (out / _IMAGES).open("a", encoding="utf-8") as log:
        for finished, (number, result, seconds) in enumerate(_timed(pending, results), 1):
            record = _compare(dataset, number, result, seconds)
            if save_predictions:  # first: what is logged as done must be there
                _save(dataset, number, result, out / _PREDICTIONS)
            log.write(json.dumps(vars(record)) + "\n")
            log.flush()
            records.append(record)
            on_progress(count - len(pending) + finished, count)
    wanted = {dataset.name(number) for number in range(count)}
    latest = {r.name: r for r in records if r.name in wanted}
    kept = sorted(latest.values(), key=lambda r: r.name)
    return Run(dataset, label_names(dataset), tuple(kept), complete)


def _timed(
    numbers: Iterable[int], results: Iterator[Segmentation]
) -> Iterator[tuple[int, Segmentation, float]]:
    started = time.perf_counter()
    for number, result in zip(numbers, results, strict=True):
        yield number, result, time.perf_counter() - started
        started = time.perf_counter()


def _compare(dataset: Dataset, number: int, result: Segmentation, seconds: float) -> ImageRecord:
    names = label_names(dataset)
    if result.classes != names:
        raise DatasetError(
            f"the segmenter gave {len(result.classes)} classes; expected the {len(names)} of the data set"
        )
    truth = dataset.truth(number)
    if truth.shape != result.labels.shape:
        raise DatasetError(
            f"{dataset.name(number)}: the image is {result.labels.shape[1]} x {result.labels.shape[0]} px, "
            f"its labels {truth.shape[1]} x {truth.shape[0]}; they belong to different images"
        )
    matrix = ConfusionMatrix(len(names))
    matrix.add(truth, result.labels)
    return ImageRecord(
        name=dataset.name(number),
        seconds=round(seconds, 4),
        miou=round(matrix.mean_iou(), 6) if matrix.pairs() else 1.0,
        paths=dict(result.paths),
        pairs=matrix.pairs(),
        foreground=_by_threshold(truth, result.foreground, len(names)) if result.foreground else (),
    )


def _by_threshold(truth: np.ndarray, foreground: Foreground, classes: int) -> list[tuple[int, int, int, int]]:
    """Pixels by (true label, best class, number of `THRESHOLDS` below its score)."""
    counted = truth != IGNORED
    below = np.searchsorted(THRESHOLDS, foreground.margins()[counted], side="left")
    labels = np.minimum(foreground.labels[counted], classes)
    keys = np.stack([truth[counted], labels, below], 1)
    found, pixels = np.unique(keys, axis=0, return_counts=True)
    return [(int(t), int(c), int(b), int(n)) for (t, c, b), n in zip(found, pixels, strict=True)]


def _open_run(out: Path, settings: Mapping[str, Any], overwrite: bool) -> list[ImageRecord]:
    """The records of an earlier run of the same settings; starts a new one where there is none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        _require_run_or_nothing(out)
        if overwrite:
            (out / _RUN).unlink(missing_ok=True)
            shutil.rmtree(out / _PREDICTIONS, ignore_errors=True)
        if not (out / _RUN).exists():
            (out / _IMAGES).write_text("", encoding="utf-8")
            with replacing(out / _RUN) as partial:
                partial.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
            return []
    except OSError as error:
        raise OutputError(f"cannot write to '{out}': {reason(error)}; choose another --out") from error
    _require_same(out, json.loads((out / _RUN).read_text(encoding="utf-8")), settings)
    return _read_records(out / _IMAGES)


def _require_run_or_nothing(out: Path) -> None:
    """Raises `OutputError` for a folder with files that are no run's."""
    held = {path.name: path for path in out.iterdir() if not path.name.endswith(".partial")}
    begun = set(held) == {_IMAGES} and not held[_IMAGES].stat().st_size
    if held and _RUN not in held and not begun:
        raise OutputError(
            f"'{out}' is no run of `freeda evaluate` and holds other files ({min(held)}); name an empty or "
            f"new folder"
        )


def _require_same(out: Path, held: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings, default=str))
    changed = [
        f"{key} {held.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted({*held, *wanted})
        if held.get(key) != wanted.get(key)
    ]
    if changed:
        raise OutputError(
            f"'{out}' holds another run ({'; '.join(changed)}); choose another --out or add --overwrite"
        )


def _read_records(path: Path) -> list[ImageRecord]:
    """All whole lines; a last one that was cut off is taken away, its image comes again."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    records = []
    for line in whole.splitlines():
        data = json.loads(line)
        if "foreground" not in data:
            raise OutputError(f"'{path}' was written by an earlier version of freeda; add --overwrite")
        counted = {name: [tuple(entry) for entry in data[name]] for name in ("pairs", "foreground")}
        records.append(ImageRecord(**data | counted))
    return records


def _save(dataset: Dataset, number: int, result: Segmentation, folder: Path) -> None:
    path = folder / f"{dataset.name(number)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = dataset.submitted(np.minimum(result.labels, len(label_names(dataset)) - 1))
    ids = np.where(result.labels == result.ignore_index, 255, ids)
    Image.fromarray(ids.astype(np.uint8)).save(path)
