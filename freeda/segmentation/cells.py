"""Scores that are constant inside each cell of an image, and the labels they give.

Sliding windows overlap, and each has its own regions. Pixels that lie in the same region of every window
have the same scores: they are one *cell*. An image has a few thousand cells, whatever its size, so classes
are ranked per cell. Single pixels are scored only where upsampling mixes cells that prefer different classes.

Shapes: `C` classes, `N` rows of scores, `P` parts of a window, `M` cells, `h w` pixels at the working size,
    `H W` pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from freeda.segmentation.borders import best_of_mixtures
from freeda.segmentation.upsampling import Upsampling

__all__ = ["Area", "CellScores", "WindowParts"]

Area = tuple[slice, slice]
_BLOCK_BYTES = 16 * 2**20
_BAND_PIXELS = 2**20


@dataclass(frozen=True)
class WindowParts:
    """The scores of one window.

    area: rows and columns of the window at the working size.
    parts: (height, width) int64, the part that holds each pixel: a region, or a pixel scored by itself.
    mixture: (P, N) sparse float32, how much of each row is in the scores of each part.
    rows: (N, C) float32 scores.
    """

    area: Area
    parts: np.ndarray
    mixture: sparse.csr_matrix
    rows: np.ndarray

    def paint(self, classes: Sequence[int]) -> torch.Tensor:
        """(len(classes), height, width): the scores of some classes at every pixel."""
        scores = self.mixture @ np.ascontiguousarray(self.rows[:, list(classes)])
        return torch.from_numpy(np.ascontiguousarray(scores.T))[:, torch.from_numpy(self.parts)]


@dataclass(frozen=True)
class CellScores:
    """The scores of an image, as the mean over the windows that hold each pixel.

    cells: (h, w) int64, 0 .. M - 1.
    mixture: (M, N) sparse float32, how much of each row is in the sum over the windows.
    visits: (M,) float32, how many windows hold the cell.
    rows: (N, C) float32 scores.
    """

    cells: np.ndarray
    mixture: sparse.csr_matrix
    visits: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, windows: Sequence[WindowParts], size: tuple[int, int]) -> CellScores:
        """Joins windows that together cover an image of `size` (h, w)."""
        cells, examples = _cells(windows, size)
        mixtures, visits = [], np.zeros(len(examples), np.float32)
        for window in windows:
            inside, parts = _parts_at(window, examples)
            visits += inside
            chosen = sparse.csr_matrix(
                (np.ones(len(parts), np.float32), (np.flatnonzero(inside), parts)),
                shape=(len(examples), window.mixture.shape[0]),
            )
            mixtures.append(chosen @ window.mixture)
        rows = np.concatenate([window.rows for window in windows])
        return cls(cells, sparse.hstack(mixtures, "csr"), visits, rows)

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def best(self, size: tuple[int, int], classes: slice) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) int32, the best of some classes counted from the first of them, and its (H, W) float32
        score.

        Scores are upsampled bilinearly to `size`. Where the score is not finite, the class has no meaning.
        """
        rows = np.ascontiguousarray(self.rows[:, classes])
        winners, values = self._ranked(rows)
        if size == self.cells.shape:
            return winners[self.cells], values[self.cells]
        labels, scores = np.empty(size, np.int32), np.empty(size, np.float32)
        for band in Upsampling.between((self.cells.shape[0], self.cells.shape[1]), size).bands(_BAND_PIXELS):
            corners = band.corners(self.cells)
            around = winners[corners]
            # Where all four cells prefer one class, so does any mixture of them.
            labels[band.rows], scores[band.rows] = around[0], band.mix(values[corners])
            pixels = np.flatnonzero((around != around[0]).any(0))
            if len(pixels):
                labels[band.rows].reshape(-1)[pixels], scores[band.rows].reshape(-1)[pixels] = (
                    best_of_mixtures(
                        corners.reshape(4, -1)[:, pixels],
                        band.shares(pixels),
                        lambda cells: self._scores(cells, rows),
                        rows.shape[1],
                    )
                )
        return labels, scores

    def dense(self) -> torch.Tensor:
        scores = self._scores(np.arange(len(self.visits)), self.rows)
        return torch.from_numpy(np.ascontiguousarray(scores.T))[:, torch.from_numpy(self.cells)]

    def _ranked(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M,) int32 best class and (M,) float32 score of every cell."""
        winners, values = np.empty(len(self.visits), np.int32), np.empty(len(self.visits), np.float32)
        for some in _split(np.arange(len(self.visits)), rows.shape[1]):
            scores = self._scores(some, rows)
            winners[some] = scores.argmax(1)
            values[some] = scores[np.arange(len(some)), winners[some]]
        return winners, values

    def _scores(self, cells: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(len(cells), C) scores of some cells."""
        return np.asarray(self.mixture[cells] @ rows) / self.visits[cells, None]


def _cells(windows: Sequence[WindowParts], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) the cell of every pixel, and (M, 2) row and column of one pixel of each cell."""
    cells, count = np.zeros(size, np.int64), 1
    for window in windows:
        parts = window.mixture.shape[0]
        pairs = cells[window.area] * parts + window.parts
        found, inverse = np.unique(pairs, return_inverse=True)
        cells[window.area] = count + inverse.reshape(pairs.shape)
        count += len(found)
    _, examples, inverse = np.unique(cells, return_index=True, return_inverse=True)
    return inverse.reshape(size), np.stack(np.unravel_index(examples, size), 1)


def _parts_at(window: WindowParts, pixels: np.ndarray) -> tuple[Any, np.ndarray]:
    """(M,) whether each of (M, 2) pixels lies in the window, and the part of those that do."""
    rows, columns = window.area
    height, width = window.parts.shape
    local = pixels - (rows.start, columns.start)
    inside = np.logical_and(local >= 0, local < (height, width)).all(axis=1)
    return inside, window.parts[local[inside, 0], local[inside, 1]]


def _split(numbers: np.ndarray, classes: int) -> Iterator[np.ndarray]:
    """Some numbers in blocks whose scores of all classes stay small."""
    step = max(1, _BLOCK_BYTES // (4 * classes))
    for start in range(0, len(numbers), step):
        yield numbers[start : start + step]
