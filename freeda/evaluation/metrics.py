"""Mean intersection over union from one confusion matrix over a whole data set."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts pixels by (true class, predicted class); pixels with the true label `ignore_index` do not count.

    A prediction outside 0 .. classes - 1 counts as wrong for its true class.
    """

    def __init__(self, classes: int, ignore_index: int = 255) -> None:
        self.classes = classes
        self.ignore_index = ignore_index
        self._counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Adds one image's (H, W) label maps of equal size."""
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape} and prediction {predicted.shape}; expected equal sizes")
        counted = truth != self.ignore_index
        wanted = truth[counted].astype(np.int64)
        found = predicted[counted].astype(np.int64)
        found = np.where((found >= 0) & (found < self.classes), found, self.classes)
        pairs = np.bincount(wanted * (self.classes + 1) + found, minlength=self._counts.size)
        self._counts += pairs.reshape(self._counts.shape)

    def pairs(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, pixels) wherever there are any; `classes` stands for no class."""
        return [
            (int(t), int(p), int(self._counts[t, p])) for t, p in zip(*self._counts.nonzero(), strict=True)
        ]

    def add_pairs(self, pairs: Iterable[tuple[int, int, int]]) -> None:
        """Adds what `pairs` of another matrix gave."""
        for true, predicted, pixels in pairs:
            self._counts[true, predicted] += pixels

    def add_counts(self, counts: np.ndarray) -> None:
        """Adds what `counts` of another matrix gave."""
        self._counts += counts

    def counts(self) -> np.ndarray:
        """(classes, classes + 1) pixels by true and predicted class; the last column is no class."""
        return self._counts.copy()

    def iou(self) -> np.ndarray:
        """(classes,) intersection over union; NaN for classes neither true nor predicted anywhere."""
        hits = np.diag(self._counts[:, : self.classes]).astype(np.float64)
        union = self._counts.sum(1) + self._counts[:, : self.classes].sum(0) - hits
        return np.divide(hits, union, out=np.full(self.classes, np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """Mean over the classes that occur in truth or prediction."""
        return float(np.nanmean(self.iou()))

    def pixel_accuracy(self) -> float:
        """Share of counted pixels with the right class."""
        hits = np.diag(self._counts[:, : self.classes]).sum()
        return float(hits / max(self._counts.sum(), 1))
