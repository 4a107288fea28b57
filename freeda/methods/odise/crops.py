"""An image as crops of one size, which the diffusion model sees one by one, and their features as one map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["CropGrid"]


@dataclass(frozen=True)
class CropGrid:
    """Crops that tile an image without overlap.

    rows, columns: how many there are. height, width: of each, in pixels.
    """

    rows: int
    columns: int
    height: int
    width: int

    @classmethod
    def of(cls, size: tuple[int, int], *, side: int, window: int, multiple: int) -> CropGrid:
        """The grid for an image of `size` (H, W) that is resized until its shorter side is near `side`.

        window: largest side of a crop. multiple: crops' sides are multiples of this.
        """
        scale = side / min(size)
        (rows, height), (columns, width) = (_cut(length * scale, window, multiple) for length in size)
        return cls(rows, columns, height, width)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image that the crops tile."""
        return self.rows * self.height, self.columns * self.width

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """(B x rows x columns, C, h, w) crops of (B, C, H, W) images."""
        count, channels = images.shape[:2]
        parts = images.reshape(count, channels, self.rows, self.height, self.columns, self.width)
        return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, self.height, self.width)

    def join(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, C, H', W') of the crops' (B x rows x columns, C, h', w') maps at any resolution."""
        channels, height, width = maps.shape[1:]
        parts = maps.reshape(-1, self.rows, self.columns, channels, height, width)
        joined = parts.permute(0, 3, 1, 4, 2, 5)
        return joined.reshape(-1, channels, self.rows * height, self.columns * width)


def _cut(length: float, window: int, multiple: int) -> tuple[int, int]:
    """How many crops a side takes, and their length."""
    count = max(1, math.ceil(round(length, 6) / window))
    return count, max(1, round(length / count / multiple)) * multiple
