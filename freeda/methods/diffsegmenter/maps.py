"""From attention to one map per class.

Shapes: `C` classes, `h w` the grid of self-attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from freeda.models.attention import Grid, NounMaps
from freeda.models.completion import normalised

__all__ = ["weighted_attention"]

_SIDES = (8, 16, 32, 64)


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
