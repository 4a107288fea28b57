"""Pixel-adaptive mask refinement (PAMR; Araslanov & Roth, CVPR 2020, section 4.2).

Shapes: `C` classes, `H W` pixels, `N` neighbours of a pixel: 8 at every dilation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

__all__ = ["DILATIONS", "pamr"]

DILATIONS = (1, 2, 4, 8, 12, 24)
_SOFTNESS = 0.1


def pamr(scores: torch.Tensor, image: torch.Tensor, iterations: int) -> torch.Tensor:
    """Replaces every pixel's (C, H, W) scores by a mean over the neighbours it resembles, `iterations` times.

    image: (3, H, W) float32 RGB in [0, 1]. A neighbour's weight is the softmax, over all 48, of minus
    its colour distance in units of a tenth of the neighbourhood's standard deviation.
    """
    weights = _affinity(image)
    for _ in range(iterations):
        refined = torch.zeros_like(scores)
        for weight, neighbour in zip(weights, _neighbours(scores), strict=True):
            refined.addcmul_(weight, neighbour)
        scores = refined
    return scores


def _affinity(image: torch.Tensor) -> torch.Tensor:
    """(N, H, W): each neighbour's weight; they sum to 1."""
    offsets = torch.stack(list(_neighbours(image))).sub_(image)
    # Every dilation's 3 x 3 square holds the pixel itself, at an offset of 0: it counts once per dilation.
    count = len(offsets) + len(DILATIONS)
    variance = (offsets.square().sum(0) - offsets.sum(0).square() / count) / (count - 1)
    spread = variance.clamp_min(0).sqrt()
    distance = offsets.abs_().div_(1e-8 + _SOFTNESS * spread)
    return distance.mean(1).neg_().softmax(0)


def _neighbours(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """(C, H, W) seen from every pixel's neighbours in turn; the border is repeated."""
    height, width = values.shape[-2:]
    for dilation in DILATIONS:
        padded = functional.pad(values[None], (dilation,) * 4, mode="replicate")[0]
        for row in (0, dilation, 2 * dilation):
            for column in (0, dilation, 2 * dilation):
                if (row, column) != (dilation, dilation):
                    yield padded[:, row : row + height, column : column + width]
