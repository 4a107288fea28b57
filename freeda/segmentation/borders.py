"""The best class of pixels on the border of cells that prefer different classes.

Such a pixel's scores are a mixture of up to four cells' scores. Its best class is one that no cell's own
best class outdoes in all of these cells: usually one of two or three, however many classes there are.

Shapes: `n` pixels, `S` distinct sets of four cells, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["best_of_mixtures"]

_BLOCK_BYTES = 16 * 2**20
ScoresOf = Callable[[np.ndarray], np.ndarray]
"""(m, C) float32 scores of (m,) cells."""


def best_of_mixtures(
    cells: np.ndarray, shares: np.ndarray, scores_of: ScoresOf, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int32 best class and (n,) float32 score of pixels that are mixed of (4, n) cells.

    shares: (4, n) float32, of each cell; they sum to 1.
    classes: how many are scored.
    """
    sets, owners = _distinct(np.sort(cells, axis=0))
    order = np.argsort(owners, kind="stable")
    bounds = np.searchsorted(owners[order], np.arange(len(sets) + 1))
    labels, values = np.empty(len(owners), np.int32), np.empty(len(owners), np.float32)
    step = max(1, _BLOCK_BYTES // (16 * classes))
    for start in range(0, len(sets), step):
        block = sets[start : start + step]
        distinct, places = np.unique(block, return_inverse=True)
        scores, places = scores_of(distinct), places.reshape(block.shape)
        contenders = _contenders(scores, places)
        for pixels in _split(order[bounds[start] : bounds[start + len(block)]]):
            numbers, lengths = contenders.of(owners[pixels] - start)
            corners = np.searchsorted(distinct, cells[:, pixels]).repeat(lengths, axis=1)
            mixed = (scores[corners, numbers] * shares[:, pixels].repeat(lengths, axis=1)).sum(0)
            best = _first_largest(mixed, lengths)
            labels[pixels], values[pixels] = numbers[best], mixed[best]
    return labels, values


@dataclass(frozen=True)
class _Contenders:
    """The classes that can win in each set of cells.

    classes: one set's after the other's.
    counts: (S,) of each set.
    """

    classes: np.ndarray
    counts: np.ndarray

    def of(self, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The classes of some sets, one's after the other's, and how many each has."""
        lengths = self.counts[sets]
        starts = (np.cumsum(self.counts) - self.counts)[sets]
        within = np.arange(lengths.sum()) - (np.cumsum(lengths) - lengths).repeat(lengths)
        return self.classes[starts.repeat(lengths) + within], lengths


def _split(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), 65_536):
        yield pixels[start : start + 65_536]


def _distinct(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, 4) distinct sets of (4, n) sorted cells, and (n,) which of them each pixel has.

    A set of fewer than four cells repeats its last one.
    """
    repeated = np.diff(cells, axis=0, prepend=-1) == 0
    packed = np.sort(np.where(repeated, cells[-1], cells), axis=0)
    most = int(packed.max()) + 1
    first, second = (np.unique(packed[at] * most + packed[at + 1], return_inverse=True)[1] for at in (0, 2))
    codes = first * (int(second.max()) + 1) + second
    _, examples, owners = np.unique(codes, return_index=True, return_inverse=True)
    return packed[:, examples].T, owners.reshape(-1)


def _contenders(scores: np.ndarray, places: np.ndarray) -> _Contenders:
    """The classes that no cell's best class outdoes in all cells of a set.

    scores: of distinct cells. places: (S, 4) rows of `scores`.
    """
    inside, winners = scores[places], scores.argmax(1)[places]
    beaten = np.zeros((len(places), scores.shape[1]), bool)
    for winner in winners.T:
        rival = np.take_along_axis(inside, winner[:, None, None], 2)
        outdone = (inside <= rival).all(1)
        outdone[np.arange(len(winner)), winner] = False
        beaten |= outdone
    _, classes = np.nonzero(~beaten)
    return _Contenders(classes, (~beaten).sum(1))


def _first_largest(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n,) the place of the first largest value in each run of so many values, or of the first NaN."""
    starts = np.cumsum(lengths) - lengths
    largest = np.maximum.reduceat(values, starts)
    matches = np.flatnonzero((values == largest.repeat(lengths)) | np.isnan(values))
    return matches[np.searchsorted(matches, starts)]
