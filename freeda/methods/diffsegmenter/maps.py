"""From attention to one map per class.

Shapes: `C` classes, `h w` the grid of self-attention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.models.attention import Grid, NounMaps

__all__ = ["complete", "normalised", "self_attention_grid", "weighted_attention"]

_RATIO_WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
"""Weight of a cross-attention grid by the ratio of the latent's side to its own. For Stable Diffusion 1.5 at
512 pixels the grids are the paper's 8, 16, 32 and 64.
"""
_MAX_TOKENS = 64 * 64
_FLAT = 1e-5


def weighted_attention(cross: NounMaps, latent_size: Grid, grid: Grid) -> torch.Tensor:
    """(C, h, w) in [0, 1]: each class's map, min-max normalised per grid and averaged with the grids'
    weights.
    """
    total, weights = torch.zeros(len(cross.sums), *grid), 0.0
    for found, calls in cross.layers.items():
        ratio = min(_RATIO_WEIGHTS, key=lambda known: abs(np.log2(known * found[0] / latent_size[0])))
        maps = torch.stack([sums[found][0] for sums in cross.sums]) / calls
        enlarged = functional.interpolate(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
        total = total.to(enlarged.device) + _RATIO_WEIGHTS[ratio] * normalised(enlarged)
        weights += _RATIO_WEIGHTS[ratio]
    return total / weights


def complete(maps: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """(C, h, w): every position takes the map's mean over the positions that it attends to.

    maps: (C, h, w).
    attention: (C, h * w, h * w) self-attention, whose rows sum to 1.
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
