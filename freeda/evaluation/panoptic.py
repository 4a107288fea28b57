"""Panoptic quality (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from freeda.segmentation.annotations import UNMARKED, AnnotatedImage
from freeda.segmentation.segments import Segment

__all__ = ["ClassMatches", "PanopticQuality", "match_segments"]

_MATCHED_ABOVE = 0.5


@dataclass(frozen=True)
class ClassMatches:
    """What became of a class's segments.

    iou: the sum over matched pairs. matched: pairs; spurious: predicted segments without a true one; missed:
    true ones without a predicted one.
    """

    label: int
    iou: float
    matched: int
    spurious: int
    missed: int


def match_segments(truth: AnnotatedImage, found: Sequence[Segment]) -> list[ClassMatches]:
    """Matches an image's segments: a true and a predicted one of a class match where their IoU exceeds 0.5.

    As in COCO's panopticapi, unmarked pixels count for no segment, crowds are neither matched nor missed, and
    a predicted segment that lies mostly on unmarked pixels or crowds of its class is left out. Pixels of none
    of the classes count against a predicted one.
    """
    true_areas = np.bincount(truth.segments[truth.segments >= 0], minlength=len(truth.labels))
    totals: dict[int, list[float]] = {}
    matched_truth: set[int] = set()
    for segment in found:
        under = truth.segments[segment.mask]
        marked = under[under != UNMARKED]
        counts = np.bincount(under[under >= 0], minlength=len(truth.labels))
        ious = counts / np.maximum(true_areas + len(marked) - counts, 1)
        same = [n for n, label in enumerate(truth.labels) if label == segment.label]
        best = next((n for n in same if n not in truth.crowds and ious[n] > _MATCHED_ABOVE), None)
        row = totals.setdefault(segment.label, [0.0, 0, 0, 0])
        if best is not None and best not in matched_truth:
            matched_truth.add(best)
            row[0] += float(ious[best])
            row[1] += 1
        elif (len(marked) - counts[[n for n in same if n in truth.crowds]].sum()) * 2 >= len(under):
            row[2] += 1
    for number, label in enumerate(truth.labels):
        if number not in matched_truth | truth.crowds and true_areas[number]:
            totals.setdefault(label, [0.0, 0, 0, 0])[3] += 1
    return [
        ClassMatches(label, round(row[0], 6), int(row[1]), int(row[2]), int(row[3]))
        for label, row in sorted(totals.items())
        if any(row)
    ]


class PanopticQuality:
    """PQ, segmentation quality and recognition quality, per class and on average.

    counts: (C, 4): sum of IoU, matched, spurious, missed.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, 4))

    def add(self, matches: Iterable[ClassMatches]) -> None:
        for item in matches:
            self.counts[item.label] += (item.iou, item.matched, item.spurious, item.missed)

    def per_class(self) -> np.ndarray:
        """(C, 3): PQ, SQ and RQ; NaN for classes that occur neither in truth nor in predictions."""
        iou, matched, spurious, missed = self.counts.T
        occurring = self.counts[:, 1:].sum(1) > 0
        weight = matched + (spurious + missed) / 2
        segmentation = np.divide(iou, matched, out=np.zeros_like(iou), where=matched > 0)
        recognition = np.divide(matched, weight, out=np.zeros_like(iou), where=weight > 0)
        found = np.stack([segmentation * recognition, segmentation, recognition], 1)
        found[~occurring] = np.nan
        return found

    def mean(self, classes: Iterable[int] | None = None) -> tuple[float, float, float]:
        """PQ, SQ and RQ over all classes that occur, or some of them; NaN where none does."""
        rows = self.per_class() if classes is None else self.per_class()[sorted(classes)]
        rows = rows[~np.isnan(rows[:, 0])]
        if not len(rows):
            return np.nan, np.nan, np.nan
        means = rows.mean(0)
        return float(means[0]), float(means[1]), float(means[2])
