"""Scores of classes: region against prototype, image against text, both together, and label maps.

Shapes: `C` classes, `R` regions, `D` width, `H W` pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

__all__ = [
    "fuse_scores",
    "label_map",
    "local_scores",
    "paint_regions",
    "upsample_patches",
]

_BAND_BYTES = 256 * 2**20


def local_scores(regions: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """(R, C): sigmoid of the cosine between (R, D) region features and (C, D) unit prototypes
    (FreeDA, eq. 5 and released code).
    """
    return torch.sigmoid(functional.normalize(regions, dim=-1) @ prototypes.T)


def fuse_scores(local: torch.Tensor, image_similarity: torch.Tensor, local_weight: float) -> torch.Tensor:
    """(R, C): `local_weight` x local + (1 - `local_weight`) x the (C,) cosine of image and class text
    (FreeDA, eq. 7).

    The sigmoid's slope is at most 1/4, so 0.8 : 0.2 weighs the two cosines about 1 : 1.
    """
    return local_weight * local + (1 - local_weight) * image_similarity


def paint_regions(scores: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """(C, H, W): every pixel takes the (R, C) scores of its region."""
    return scores.T[:, torch.from_numpy(labels.astype(np.int64)).to(scores.device)]


def upsample_patches(scores: torch.Tensor, grid: tuple[int, int], size: tuple[int, ...]) -> torch.Tensor:
    """(C, H, W): (h * w, C) scores of tokens, upsampled bilinearly with corners aligned."""
    maps = scores.T.reshape(1, -1, *grid)
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)[0]


def label_map(
    scores: torch.Tensor, size: tuple[int, int], ignore_index: int
) -> tuple[np.ndarray, np.ndarray]:
    """Upsamples (C, h, w) scores to `size` and takes the best class: (H, W) int32 labels and float32 scores.

    Pixels without a finite score become `ignore_index`. It works in bands of rows, so that a huge image with
    many classes fits in memory.
    """
    height, width = size
    labels = np.empty(size, np.int32)
    best = np.empty(size, np.float32)
    rows = max(1, _BAND_BYTES // (4 * len(scores) * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = _upsample_rows(scores, size, top, bottom)
        values, winners = band.max(0)
        winners[~torch.isfinite(values)] = ignore_index
        labels[top:bottom] = winners.cpu().numpy()
        best[top:bottom] = values.cpu().numpy()
    return labels, best


def _upsample_rows(scores: torch.Tensor, size: tuple[int, int], top: int, bottom: int) -> torch.Tensor:
    """Rows top .. bottom - 1 of the bilinear upsampling (corners not aligned) of `scores`."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores[:, top:bottom]
    lower, upper, share = _neighbours(scores.shape[-2], size[0], scores.device)
    lower, upper = lower[top:bottom], upper[top:bottom]
    share = share[top:bottom, None]
    rows = scores[:, lower] * (1 - share) + scores[:, upper] * share
    left, right, across = _neighbours(scores.shape[-1], size[1], scores.device)
    return rows[:, :, left] * (1 - across) + rows[:, :, right] * across


def _neighbours(
    source: int, target: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every target position the two source positions around it and the second one's share."""
    centre = ((torch.arange(target, device=device) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    lower = centre.floor().long()
    return lower, (lower + 1).clamp(max=source - 1), centre - lower
