"""What every model does to an image before it sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

__all__ = ["Interpolation", "grid_size", "resize", "standardise"]

Interpolation = Literal["antialiased", "bilinear", "bicubic"]
"""How a model's input is resized: bicubically, smoothed where it shrinks and kept within [0, 1]; or plainly,
by the values around each sample only.
"""


def resize(
    images: torch.Tensor, size: tuple[int, int], interpolation: Interpolation = "antialiased"
) -> torch.Tensor:
    """(B, 3, height, width) float32 of (B, 3, H, W) images in [0, 1]."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if interpolation != "antialiased":
        return functional.interpolate(images, size, mode=interpolation, align_corners=False)
    resized = functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def grid_size(size: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """Height and width whose shorter one is about `side` and that are multiples of `multiple`, the aspect of
    `size` nearly kept.
    """
    scale = side / min(size)
    height, width = (max(1, round(length * scale / multiple)) * multiple for length in size)
    return height, width


def standardise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Images less a mean, over a standard deviation, per channel."""
    mean_, std_ = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images - mean_) / std_
