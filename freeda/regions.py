"""Class-agnostic superpixels and the pooling of dense features inside them.

Shapes: `H W` pixels, `h w` token grid, `R` regions, `D` width.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.segmentation import felzenszwalb

from freeda.presets import Superpixels
from freeda.records import Regions

__all__ = ["pool_mask", "pool_regions", "region_weights", "superpixels"]


def superpixels(image: np.ndarray, config: Superpixels) -> Regions:
    """Felzenszwalb superpixels of an (H, W, 3) float32 RGB image in [0, 1]."""
    labels = felzenszwalb(
        image, scale=config.scale, sigma=config.sigma, min_size=config.min_size, channel_axis=-1
    )
    return Regions(labels.astype(np.int32))


def region_weights(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(R, h * w) float32: the share of each region's pixels that lies in each token's cell.

    Rows sum to 1, so that every region, however small, has a feature: masks shrunk to the token
    grid, as in FreeDA's released code, lose the smallest regions.
    """
    count, tokens = int(labels.max()) + 1, grid[0] * grid[1]
    flat = labels.astype(np.int64) * tokens + _token_of_pixel(labels.shape, grid)
    areas = np.bincount(flat.ravel(), minlength=count * tokens).reshape(count, tokens)
    return torch.from_numpy((areas / areas.sum(1, keepdims=True)).astype(np.float32))


def pool_regions(features: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    """(R, D): the area-weighted mean of (D, h, w) features in every region of (H, W) labels."""
    weights = region_weights(labels, (features.shape[-2], features.shape[-1]))
    return weights.to(features.device) @ features.flatten(1).T


def pool_mask(features: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """(D,): the area-weighted mean of (D, h, w) features inside one (H, W) boolean mask, not empty."""
    grid = (features.shape[-2], features.shape[-1])
    areas = np.bincount(_token_of_pixel(mask.shape, grid)[mask], minlength=grid[0] * grid[1])
    weights = torch.from_numpy((areas / areas.sum()).astype(np.float32))
    return features.flatten(1) @ weights.to(features.device)


def _token_of_pixel(size: tuple[int, ...], grid: tuple[int, int]) -> np.ndarray:
    """(H, W) int64: the token whose cell holds each pixel's centre."""
    rows, columns = (
        ((np.arange(side) + 0.5) * cells / side).astype(np.int64)
        for side, cells in zip(size, grid, strict=True)
    )
    return np.asarray(rows[:, None] * grid[1] + columns[None])
