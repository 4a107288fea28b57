"""Runs a segmenter over a data set. Every finished image is one line of a log, so that runs can resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from freeda.errors import DatasetError
from freeda.evaluation.average_precision import compressed
from freeda.evaluation.datasets import Dataset, label_names
from freeda.evaluation.layouts import IGNORED
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.panoptic import ClassMatches, PanopticQuality, match_segments
from freeda.evaluation.run_folder import ImageRecord, RunFolder
from freeda.methods.base import Segmenter
from freeda.segmentation.decision import Foreground
from freeda.segmentation.result import Segmentation
from freeda.segmentation.segments import Segment

__all__ = ["TASKS", "THRESHOLDS", "ImageRecord", "Run", "RunFolder", "Task", "evaluate"]

Task = Literal["semantic", "panoptic", "instance"]
TASKS: tuple[Task, ...] = ("semantic", "panoptic", "instance")
THRESHOLDS = (np.arange(100) / 100).astype(np.float32)
"""Thresholds of the background that are tried on the test labels."""


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

    def panoptic(self) -> PanopticQuality:
        """Of a run whose task was panoptic."""
        total = PanopticQuality(len(self.dataset.classes))
        for record in self.records:
            total.add(ClassMatches(*item) for item in record.segments)
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
    out: str | Path | RunFolder,
    *,
    task: Task = "semantic",
    limit: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Segments a data set's images, or the first `limit`, and compares them with the truth.

    out: where the run is logged. A run of the same data set and segmenter there is resumed; another one is
        refused, unless its `RunFolder` says to overwrite.
    task: what is compared besides labels: nothing more, segments ("panoptic"), or scored instances.
    on_progress: called with images done and in all.
    Raises `DatasetError`, `OutputError`.
    """
    folder = out if isinstance(out, RunFolder) else RunFolder(Path(out))
    complete = {**dataset.identity, **segmenter.identity, "task": task}
    count = min(limit or len(dataset), len(dataset))
    records = folder.open(complete)
    done = {record.name for record in records}
    pending = [number for number in range(count) if dataset.name(number) not in done]
    on_progress(count - len(pending), count)
    segmenter.set_classes(dataset.classes)
    results = segmenter.stream(dataset.image(number) for number in pending)
    with folder.log() as log:
        for finished, (number, result, seconds) in enumerate(_timed(pending, results), 1):
            record = _compare(dataset, number, result, task, seconds)
            ids = dataset.submitted(np.minimum(result.labels, len(label_names(dataset)) - 1))
            folder.save(record.name, result, ids)  # first: what is logged as done must be there
            log.add(record)
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


def _compare(dataset: Dataset, number: int, result: Segmentation, task: Task, seconds: float) -> ImageRecord:
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
        segments=_matches(dataset, number, result) if task == "panoptic" else (),
        instances=_instances(dataset, result) if task == "instance" else (),
    )


def _matches(dataset: Dataset, number: int, result: Segmentation) -> list[tuple[int, float, int, int, int]]:
    found = match_segments(dataset.annotated(number), list(_of_classes(dataset, result.segments)))
    return [(item.label, item.iou, item.matched, item.spurious, item.missed) for item in found]


def _instances(dataset: Dataset, result: Segmentation) -> list[tuple[int, float, tuple[int, int], str]]:
    if result.segment_source is None:
        raise DatasetError(
            "these results do not tell instances apart (of the methods, odise does, without --native); use "
            "--task panoptic or semantic"
        )
    found = list(_of_classes(dataset, result.instances))
    return [(item.label, item.score, *compressed(item.mask)) for item in found]


def _of_classes(dataset: Dataset, segments: Iterable[Segment]) -> Iterator[Segment]:
    """Without the background's, numbered as the data set's classes."""
    first = int(dataset.background)
    return (replace(item, label=item.label - first) for item in segments if item.label >= first)


def _by_threshold(truth: np.ndarray, foreground: Foreground, classes: int) -> list[tuple[int, int, int, int]]:
    """Pixels by (true label, best class, number of `THRESHOLDS` below its score)."""
    counted = truth != IGNORED
    below = np.searchsorted(THRESHOLDS, foreground.margins()[counted], side="left")
    labels = np.minimum(foreground.labels[counted], classes)
    keys = np.stack([truth[counted], labels, below], 1)
    found, pixels = np.unique(keys, axis=0, return_counts=True)
    return [(int(t), int(c), int(b), int(n)) for (t, c, b), n in zip(found, pixels, strict=True)]
