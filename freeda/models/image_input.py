"""What every model does to an image before it sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

__all__ = ["resize", "standardise"]


def resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, 3, height, width) float32 in [0, 1]: bicubic, smoothed where it shrinks."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    resized = functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def standardise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Images less a mean, over a standard deviation, per channel."""
    mean_, std_ = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images - mean_) / std_
