"""What a method scores, and the best class of every pixel.

Shapes: `C` classes, `h w` pixels at any resolution, `H W` pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from freeda.segmentation.upsampling import Upsampling

__all__ = ["DenseScores", "ScoreMaps", "best_class"]

_BAND_BYTES = 256 * 2**20


class ScoreMaps(Protocol):
    """The scores of an image, in whatever form a method has them."""

    def __len__(self) -> int:
        """How many classes are scored, background concepts included."""

    def best(self, size: tuple[int, int], classes: slice) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) int32, the best of some classes counted from the first of them, and its (H, W) float32
        score, at `size`. Where the score is not finite, the class has no meaning.
        """

    def dense(self) -> torch.Tensor:
        """(C, h, w): every class's score at every pixel of the working size, for small images and few
        classes. It is minus infinity for classes that cannot win.
        """


@dataclass(frozen=True)
class DenseScores:
    """A score of every pixel and class.

    maps: (K, h, w) float32, of the K classes that can win.
    numbers: (K,) which classes these are, ascending.
    count: of all classes.
    """

    maps: torch.Tensor
    numbers: Sequence[int]
    count: int

    @classmethod
    def of(cls, maps: torch.Tensor) -> DenseScores:
        """All classes' (C, h, w) scores."""
        return cls(maps, range(len(maps)), len(maps))

    def __len__(self) -> int:
        return self.count

    def best(self, size: tuple[int, int], classes: slice) -> tuple[np.ndarray, np.ndarray]:
        chosen = range(self.count)[classes]
        kept = [place for place, number in enumerate(self.numbers) if number in chosen]
        if not kept:
            return np.zeros(size, np.int32), np.full(size, -np.inf, np.float32)
        labels, scores = best_class(self.maps[kept[0] : kept[-1] + 1], size)
        numbers = np.array([self.numbers[place] - chosen.start for place in kept], np.int32)
        return numbers[labels], scores

    def dense(self) -> torch.Tensor:
        whole = torch.full((self.count, *self.maps.shape[-2:]), -torch.inf)
        whole[list(self.numbers)] = self.maps
        return whole


def best_class(maps: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Upsamples (C, h, w) scores to `size` and takes the best class: (H, W) int32 classes, float32 scores.

    It works in bands of rows, so that a huge image with many classes fits in memory.
    """
    labels, best = np.empty(size, np.int32), np.empty(size, np.float32)
    upsampling = Upsampling.between((maps.shape[-2], maps.shape[-1]), size)
    for band in upsampling.bands(_BAND_BYTES // (4 * len(maps))):
        values, winners = band.upsample(maps).max(0)
        labels[band.rows] = winners.cpu().numpy()
        best[band.rows] = values.cpu().numpy()
    return labels, best
