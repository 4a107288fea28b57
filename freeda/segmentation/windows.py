"""Images as sliding windows, cut before the models see them.

Shapes: `H W` pixels of the image, `h w` at the working size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
import torch
from more_itertools import chunked
from PIL import Image

from freeda.records import Regions

__all__ = ["WindowedImage", "same_sized", "window_origins"]


def window_origins(side: int, window: int, stride: int) -> list[int]:
    """Where sliding windows start so that they cover `side`; the last one is moved back to fit."""
    last = max(side - window, 0)
    return [*range(0, last, stride), last]


@dataclass(frozen=True)
class WindowedImage:
    """An image ready for the models.

    pixels: (H, W, 3) uint8.
    image: (3, h, w) float32 in [0, 1], at the working size.
    areas: rows and columns of every window.
    regions: of every window.
    """

    pixels: np.ndarray
    image: torch.Tensor
    areas: list[tuple[slice, slice]]
    regions: list[Regions]

    @classmethod
    def cut(
        cls,
        pixels: np.ndarray,
        short_side: int,
        window: int,
        stride: int,
        find_regions: Callable[[np.ndarray], Regions],
        *,
        antialias: bool = True,
    ) -> WindowedImage:
        """Resizes an (H, W, 3) uint8 image, cuts it into windows and finds the regions of each.

        short_side, window, stride: pixels.
        find_regions: is given (h, w, 3) float32 windows in [0, 1].
        antialias: whether the image is smoothed where it shrinks.
        """
        image = _resize_short_side(pixels, short_side, antialias)
        areas = [
            (slice(top, top + window), slice(left, left + window))
            for top in window_origins(image.shape[-2], window, stride)
            for left in window_origins(image.shape[-1], window, stride)
        ]
        regions = [find_regions(image[:, rows, columns].permute(1, 2, 0).numpy()) for rows, columns in areas]
        return cls(pixels, image, areas, regions)

    def window(self, number: int) -> torch.Tensor:
        rows, columns = self.areas[number]
        return self.image[:, rows, columns]

    def windows_at(self, row: int, column: int) -> list[int]:
        """The windows that hold a pixel, the one whose centre is nearest first."""

        def distance(number: int) -> float:
            rows, columns = self.areas[number]
            return abs(row - (rows.start + rows.stop) / 2) + abs(column - (columns.start + columns.stop) / 2)

        holding = [
            number
            for number, (rows, columns) in enumerate(self.areas)
            if rows.start <= row < rows.stop and columns.start <= column < columns.stop
        ]
        return sorted(holding, key=distance)

    def region_at(self, number: int, regions: Regions, row: int, column: int) -> np.ndarray:
        """(H, W) bool at the image's own size: the region of window `number` that holds a pixel."""
        rows, columns = self.areas[number]
        labels = regions.labels
        mask = np.zeros(self.image.shape[-2:], bool)
        mask[rows, columns] = labels == labels[row - rows.start, column - columns.start]
        height, width = self.pixels.shape[:2]
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def same_sized(group: Sequence[WindowedImage], most: int) -> Iterator[list[tuple[int, int]]]:
    """All windows of some images as (image, window) numbers, in batches of one size and at most `most`
    windows.
    """
    numbers = [(image, number) for image, item in enumerate(group) for number in range(len(item.areas))]
    for _, alike in groupby(numbers, key=lambda pair: group[pair[0]].window(pair[1]).shape):
        yield from chunked(alike, most)


def _resize_short_side(pixels: np.ndarray, short_side: int, antialias: bool) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1] with its shorter side at `short_side`, the aspect kept; bilinear, by Pillow
    where it is smoothed, else by OpenCV.
    """
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        resized = pixels
    elif antialias:
        resized = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    else:
        resized = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
