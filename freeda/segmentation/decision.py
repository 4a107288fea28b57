"""From scores to labels: the best class of every pixel, or the background.

All rules about the background are here. Rows of scores are classes first, then background concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from freeda.class_names import BACKGROUND
from freeda.segmentation.score_maps import ScoreMaps

__all__ = ["THRESHOLD_ROW", "Decision", "Foreground", "class_scores", "decide", "ignore_index_for", "rank"]

THRESHOLD_ROW = -1
"""What `rank` gives for the background's threshold, which has no row of scores."""


@dataclass(frozen=True)
class Foreground:
    """The best classes, before the background is decided.

    labels: (H, W) int32, the best class, counted from 1.
    scores: (H, W) float32, its score.
    rivals: (H, W) float32, the score of the best background concept; None where there are no concepts.
    """

    labels: np.ndarray
    scores: np.ndarray
    rivals: np.ndarray | None = None

    def margins(self) -> np.ndarray:
        """(H, W) float32: a pixel is background at every threshold that is not below this value."""
        if self.rivals is None:
            return self.scores
        return np.where(self.rivals >= self.scores, -np.inf, self.scores).astype(np.float32)

    def decide(self, threshold: float, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) labels and the scores of what was chosen.

        A pixel is 0, background, where the best class does not exceed both the threshold and its rival.
        Undecided pixels stay undecided.
        """
        floor = np.full_like(self.scores, threshold)
        if self.rivals is not None:
            floor = np.fmax(floor, self.rivals)
        lost = (self.scores <= floor) & (self.labels != ignore_index)
        return np.where(lost, 0, self.labels), np.where(lost, floor, self.scores)


@dataclass(frozen=True)
class Decision:
    """What every pixel is.

    labels: (H, W) int32, index into `classes`; `ignore_index` where no score was finite.
    scores: (H, W) float32, of what was chosen.
    classes: names, the background first where there is one.
    foreground: None where there is no background.
    """

    labels: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]
    ignore_index: int
    foreground: Foreground | None = None


def decide(
    scores: ScoreMaps, size: tuple[int, int], names: Sequence[str], *, background: float | None = None
) -> Decision:
    """Labels of an image of `size` (H, W) from its scores.

    scores: of C classes, then of B background concepts.
    names: of the C classes.
    background: the threshold that a class must exceed, as it must exceed every concept; None for no
        background.
    """
    classes = tuple(names) if background is None else (BACKGROUND, *names)
    ignore_index = ignore_index_for(len(classes))
    labels, best = scores.best(size, slice(0, len(names)))
    undecided = ~np.isfinite(best)
    if background is None:
        return Decision(np.where(undecided, ignore_index, labels), best, classes, ignore_index)
    concepts = slice(len(names), len(scores))
    rivals = scores.best(size, concepts)[1] if len(scores) > len(names) else None
    counted = np.where(undecided, ignore_index, labels + 1).astype(np.int32)
    foreground = Foreground(counted, best, rivals)
    labels, best = foreground.decide(background, ignore_index)
    return Decision(labels, best, classes, ignore_index, foreground)


def class_scores(
    scores: ScoreMaps,
    size: tuple[int, int],
    numbers: Sequence[int],
    *,
    classes: int,
    background: float | None,
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    """(K, H, W) scores of classes numbered as `decide` numbers them. The background's is the greater of its
    threshold and its concepts' best.

    classes: how many of the rows are classes.
    """
    first = 0 if background is None else 1
    found = np.empty((len(numbers), *size), dtype)
    for place, number in enumerate(numbers):
        if number >= first:
            found[place] = scores.best(size, slice(number - first, number - first + 1))[1]
            continue
        found[place] = background
        if len(scores) > classes:
            rivals = scores.best(size, slice(classes, len(scores)))[1]
            found[place] = np.fmax(found[place], rivals)
    return found


def rank(scores: Sequence[float], classes: int, background: float | None) -> list[int]:
    """Rows of one pixel's scores, best first, as `decide` ranks them: on a tie the background wins.

    scores: of the classes, then of the concepts. With a background, `THRESHOLD_ROW` stands for its threshold.
    """
    rows = [*range(classes, len(scores)), *range(classes)]
    ranked = [(scores[row], row) for row in rows]
    if background is not None:
        ranked.insert(0, (background, THRESHOLD_ROW))
    return [row for _, row in sorted(ranked, key=lambda item: -item[0])]


def ignore_index_for(classes: int) -> int:
    """255, or 65535 where 255 would be a class."""
    return 255 if classes <= 255 else 65535
