"""Class-agnostic superpixels and the pooling of dense features inside them.

Shapes: `H W` pixels, `h w` token grid, `R` regions, `D` width. Pooling is one product of an
(R, h * w) weight matrix with the features: (R, D, h, w) masked copies are never made.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy import sparse

from freeda.presets.settings import Pooling, Superpixels
from freeda.records import Regions

__all__ = [
    "area_weights",
    "bilinear_weights",
    "pool_mask",
    "pool_regions",
    "region_weights",
    "smooth_weights",
    "superpixels",
    "token_shares",
]


def superpixels(image: np.ndarray, config: Superpixels) -> Regions:
    """Superpixels of an (H, W, 3) float32 RGB image in [0, 1], by Felzenszwalb and Huttenlocher."""
    segment = {"felzenszwalb": _felzenszwalb, "graph": _graph}[config.algorithm]
    return Regions(segment(image, config).astype(np.int32))


def _felzenszwalb(image: np.ndarray, config: Superpixels) -> np.ndarray:
    from skimage.segmentation import felzenszwalb  # 0.5 s to import, for the paper's recipe only

    return np.asarray(
        felzenszwalb(image, scale=config.scale, sigma=config.sigma, min_size=config.min_size, channel_axis=-1)
    )


def _graph(image: np.ndarray, config: Superpixels) -> np.ndarray:
    # Its threshold is in grey levels, where scikit-image's is divided by 255 for images in [0, 1].
    segmenter = cv2.ximgproc.segmentation.createGraphSegmentation(config.sigma, config.scale, config.min_size)
    return np.asarray(segmenter.processImage(np.ascontiguousarray(image * np.float32(255))))


def area_weights(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(R, h * w) float32: the share of each region's pixels that lies in each token's cell.

    Rows sum to 1, so that every region, however small, has a feature.
    """
    count, tokens = int(labels.max()) + 1, grid[0] * grid[1]
    flat = labels.astype(np.int64) * tokens + _token_of_pixel(labels.shape, grid)
    areas = np.bincount(flat.ravel(), minlength=count * tokens).reshape(count, tokens)
    return torch.from_numpy((areas / areas.sum(1, keepdims=True)).astype(np.float32))


def bilinear_weights(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(R, h * w) float32: each region's binary mask resized to the grid bilinearly, with corners aligned and
    no antialiasing, then divided by its sum (FreeDA's released code).

    A region that none of the sampled pixels touches vanishes: its row is all zeros.
    """
    count, tokens = int(labels.max()) + 1, grid[0] * grid[1]
    weights = np.zeros((count, tokens))
    rows, columns = (_corner_pairs(side, cells) for side, cells in zip(labels.shape, grid, strict=True))
    for row, down in rows:
        for column, across in columns:
            touched = labels[row][:, column].ravel()
            np.add.at(weights, (touched, np.arange(tokens)), (down[:, None] * across).ravel())
    totals = weights.sum(1, keepdims=True)
    return torch.from_numpy((weights / np.where(totals > 0, totals, 1)).astype(np.float32))


def _corner_pairs(source: int, target: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two source positions that each target position samples along one axis, corners aligned, and their
    shares.
    """
    centre = np.arange(target) * ((source - 1) / max(target - 1, 1))
    lower = np.minimum(centre.astype(np.int64), source - 1)
    share = centre - lower
    return [(lower, 1 - share), (np.minimum(lower + 1, source - 1), share)]


def token_shares(grid: tuple[int, int], size: tuple[int, int], pixels: np.ndarray) -> sparse.csr_matrix:
    """(n, h * w) sparse float32: how some pixels of (H, W), counted along its rows, are mixed of the tokens
    when a map is upsampled bilinearly with corners aligned (FreeDA's released code).
    """
    rows, columns = np.divmod(pixels, size[1])
    down, across = (_corner_pairs(cells, side) for cells, side in zip(grid, size, strict=True))
    tokens = [row[rows] * grid[1] + column[columns] for row, _ in down for column, _ in across]
    shares = [share[rows] * other[columns] for _, share in down for _, other in across]
    places = np.tile(np.arange(len(pixels)), 4)
    entries = (np.concatenate(shares).astype(np.float32), (places, np.concatenate(tokens)))
    return sparse.csr_matrix(entries, shape=(len(pixels), grid[0] * grid[1]))


def smooth_weights(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """(R, h * w) float32: each pixel is shared by the four token centres around it. Rows sum to 1.

    Weighted by these, the tokens' mean is the region's mean over bilinearly upsampled features.
    """
    count, tokens = int(labels.max()) + 1, grid[0] * grid[1]
    weights = np.zeros(count * tokens)
    rows, columns = (_centre_pairs(side, cells) for side, cells in zip(labels.shape, grid, strict=True))
    owners = labels.astype(np.int64) * tokens
    for row, down in rows:
        for column, across in columns:
            flat = owners + row[:, None] * grid[1] + column
            shares = down[:, None] * across
            weights += np.bincount(flat.ravel(), shares.ravel(), minlength=count * tokens)
    stacked = weights.reshape(count, tokens)
    return torch.from_numpy((stacked / stacked.sum(1, keepdims=True)).astype(np.float32))


def _centre_pairs(side: int, cells: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two cells whose centres each pixel lies between along one axis, each with its share."""
    position = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    lower = position.astype(np.int64)
    share = position - lower
    return [(lower, 1 - share), (np.minimum(lower + 1, cells - 1), share)]


_WEIGHTS = {"area": area_weights, "smooth": smooth_weights, "bilinear": bilinear_weights}


def region_weights(labels: np.ndarray, grid: tuple[int, int], pooling: Pooling = "area") -> torch.Tensor:
    """(R, h * w) float32 weights of every token in every region of (H, W) labels."""
    return _WEIGHTS[pooling](labels, grid)


def pool_regions(features: torch.Tensor, labels: np.ndarray, pooling: Pooling = "area") -> torch.Tensor:
    """(R, D): the weighted mean of (D, h, w) features in every region of (H, W) labels."""
    weights = region_weights(labels, (features.shape[-2], features.shape[-1]), pooling)
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
