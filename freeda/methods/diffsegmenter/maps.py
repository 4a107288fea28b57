"""From attention to one map per class.

Shapes: `C` classes, `h w` the grid of self-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.models.attention import Grid, NounMaps

__all__ = ["complete", "normalised", "self_attention_grid", "weighted_attention"]

_SIDES = (8, 16, 32, 64)
_MAX_TOKENS = 64 * 64
_FLAT = 1e-5


def weighted_attention(cross: NounMaps, weights: Sequence[float], grid: Grid) -> torch.Tensor:
    """(C, h, w) in [0, 1]: each class's map, min-max normalised per attention grid and averaged with the
    grids' weights.

    cross: of prompts in the classes' order, each with the nouns of some classes.
    weights: of grids of 8, 16, 32 and 64 positions a side; others count as the nearest of these.
    """
    total, sum_of_weights = torch.zeros(sum(cross.counts), *grid), 0.0
    for found, calls in cross.layers.items():
        weight = weights[_nearest_side(found)]
        parts = [cross.sums(number)[found] for number in range(len(cross.counts))]
        maps = torch.cat(parts)[:, None] / calls
        enlarged = functional.interpolate(maps, grid, mode="bilinear", align_corners=False)[:, 0]
        total = total.to(enlarged.device) + weight * normalised(enlarged)
        sum_of_weights += weight
    return total / max(sum_of_weights, 1e-12)


def _nearest_side(grid: Grid) -> int:
    """Which of `_SIDES` is nearest to a grid's, by ratio."""
    side = np.sqrt(grid[0] * grid[1])
    return min(range(len(_SIDES)), key=lambda number: abs(np.log2(_SIDES[number] / side)))


def complete(maps: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """(C, h, w): every position takes the map's mean over the positions that it attends to.

    maps: (C, h, w).
    attention: (C or 1, h * w, h * w) self-attention, whose rows sum to 1.
    """
    flat = attention @ maps.flatten(1)[..., None]
    return flat[..., 0].reshape(maps.shape)


def self_attention_grid(unet: Any, latent_size: Grid) -> Grid:
    """The finest grid of at most 64 x 64 positions that has self-attention; raises `ConfigError`."""
    grid, usable = latent_size, []
    for name in unet.config.down_block_types:
        if "Attn" in name:
            usable.append(grid)
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    fitting = [found for found in usable if found[0] * found[1] <= _MAX_TOKENS]
    if not fitting:
        raise ConfigError(
            f"the UNet has self-attention on no grid of at most {_MAX_TOKENS} positions; use smaller images"
        )
    return fitting[0]


def normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each (h, w) map stretched to [0, 1]; a flat one, but for rounding, becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    flat = high - low <= _FLAT * high.abs()
    return torch.where(flat, 0.0, (maps - low) / (high - low).clamp(min=1e-12))
