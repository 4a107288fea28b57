"""The parts that a result falls into, and masks as run lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from freeda.segmentation.result import Segmentation

__all__ = ["LabelledPiece", "Piece", "connected_pieces", "result_pieces", "run_lengths"]


@dataclass(frozen=True)
class Piece:
    """A part of a larger mask. mask: (h, w) bool, what lies in its box. left, top: of the box, in pixels."""

    mask: np.ndarray
    left: int
    top: int

    @classmethod
    def of(cls, mask: np.ndarray) -> Piece:
        """All of an (H, W) mask that is not empty."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        top, left = int(rows[0]), int(columns[0])
        return cls(mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], left, top)

    @property
    def area(self) -> int:
        """In pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> list[int]:
        """Left, top, width and height in pixels, as COCO has them."""
        return [self.left, self.top, self.mask.shape[1], self.mask.shape[0]]

    def cut(self, values: np.ndarray) -> np.ndarray:
        """(h, w, ...): what an (H, W, ...) array holds in the box."""
        height, width = self.mask.shape
        return values[self.top : self.top + height, self.left : self.left + width]

    def mean(self, values: np.ndarray) -> float:
        """The mean of an (H, W) array over the piece, to six digits."""
        return round(float(self.cut(values)[self.mask].mean()), 6)

    def whole(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool."""
        found = np.zeros((height, width), bool)
        self.cut(found)[:] = self.mask
        return found

    def column_runs(self, height: int, width: int) -> list[int]:
        """COCO's run lengths of the whole mask, along columns; only columns of the box are gone through."""
        columns = np.zeros((self.mask.shape[1], height), bool)
        columns[:, self.top : self.top + self.mask.shape[0]] = self.mask.T
        runs = run_lengths(columns)
        runs[0] += self.left * height
        after = (width - self.left - columns.shape[0]) * height
        if len(runs) % 2:  # it ends outside of the mask
            runs[-1] += after
        elif after:
            runs.append(after)
        return runs


@dataclass(frozen=True)
class LabelledPiece:
    """A piece of a result. label: its class's number. is_thing: whether it is one of several of its class."""

    label: int
    piece: Piece
    score: float
    is_thing: bool


def result_pieces(result: Segmentation, *, instances: bool) -> Iterator[LabelledPiece]:
    """The segments that a method has found by itself, largest first. Of other methods, the classes found,
    largest first: one piece per class, or every connected one.
    """
    if result.segment_source is not None:
        for found in result.segments:
            yield LabelledPiece(found.label, Piece.of(found.mask), found.score, found.is_thing)
        return
    for item in result.segments_info:
        mask = result.labels == item["id"]
        for piece in connected_pieces(mask) if instances else [Piece.of(mask)]:
            yield LabelledPiece(item["id"], piece, piece.mean(result.scores), instances)


def connected_pieces(mask: np.ndarray) -> Iterator[Piece]:
    """The connected pieces of an (H, W) mask, of pixels that touch at a side or a corner, largest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for number in sorted(range(1, count), key=lambda number: -int(stats[number, cv2.CC_STAT_AREA])):
        left, top, width, height, _ = (int(value) for value in stats[number])
        yield Piece(np.asarray(labels[top : top + height, left : left + width] == number), left, top)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask's rows laid end to end: of False first (0 where there are none), then of
    True, and so on. COCO's run along columns: give it the transposed mask.
    """
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes])).tolist()
