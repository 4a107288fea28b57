"""Bilinear upsampling, a band of rows at a time.

Shapes: `C` classes, `h w` the source, `H W` the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Band", "Upsampling"]

_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Upsampling:
    """Bilinear upsampling with corners not aligned.

    source, target: sizes (h, w) and (H, W).
    down, across: along each axis, the two source positions around every target position, and the share of
        the second one.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    down: _Pairs
    across: _Pairs

    @classmethod
    def between(cls, source: tuple[int, int], target: tuple[int, int]) -> Upsampling:
        return cls(source, target, _pairs(source[0], target[0]), _pairs(source[1], target[1]))

    def bands(self, pixels: int) -> Iterator[Band]:
        """The target's rows, in bands of about so many pixels."""
        height, width = self.target
        step = max(1, pixels // width)
        for top in range(0, height, step):
            yield Band(self, slice(top, min(top + step, height)))


@dataclass(frozen=True)
class Band:
    """Some rows of an upsampling. `n` stands for their pixels."""

    whole: Upsampling
    rows: slice

    def corners(self, values: np.ndarray) -> np.ndarray:
        """(4, rows, W): what (h, w) values are at the four source positions around every target pixel."""
        upper, lower, _ = self.whole.down
        left, right, _ = self.whole.across
        vertical = (values[upper[self.rows]], values[lower[self.rows]])
        return np.stack([part[:, column] for part in vertical for column in (left, right)])

    def mix(self, corners: np.ndarray) -> np.ndarray:
        """(rows, W): (4, rows, W) values of the corners, mixed by their shares."""
        down, across = self.whole.down[2][self.rows, None], self.whole.across[2]
        left = corners[0] * (1 - down) + corners[2] * down
        right = corners[1] * (1 - down) + corners[3] * down
        mixed: np.ndarray = left * (1 - across) + right * across
        return mixed

    def shares(self, pixels: np.ndarray) -> np.ndarray:
        """(4, n): the share of each corner in some pixels of the band, counted along its rows."""
        row, column = np.divmod(pixels, self.whole.target[1])
        down, across = self.whole.down[2][self.rows][row], self.whole.across[2][column]
        return np.stack([part * side for part in (1 - down, down) for side in (1 - across, across)])

    def upsample(self, maps: torch.Tensor) -> torch.Tensor:
        """(C, rows, W) of (C, h, w) maps."""
        if self.whole.source == self.whole.target:
            return maps[:, self.rows]
        upper, lower, down = (torch.from_numpy(part[self.rows]).to(maps.device) for part in self.whole.down)
        left, right, across = (torch.from_numpy(part).to(maps.device) for part in self.whole.across)
        rows = maps[:, upper] * (1 - down[:, None]) + maps[:, lower] * down[:, None]
        return rows[:, :, left] * (1 - across) + rows[:, :, right] * across


def _pairs(source: int, target: int) -> _Pairs:
    """For every target position the two source positions around it and the second one's share."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1).astype(np.float32)
    lower = np.floor(centre).astype(np.int64)
    return lower, np.minimum(lower + 1, source - 1), centre - lower.astype(np.float32)
