"""Completes attention maps by self-attention: what a position attends to is, most likely, of the same thing.

Shapes: `N` maps, `H W` the latent's grid, `h w` the grid of self-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.models.attention import Grid, capture_self_attention, resize_map

__all__ = ["complete", "completed", "completing", "normalised", "self_attention_grid"]

_MOST = 32 * 32
"""Positions of the grid that completes maps: 4 MB of attention per image."""
_FLAT = 1e-5


def complete(maps: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """(N, h, w): every position takes the map's mean over the positions that it attends to.

    maps: (N, h, w).
    attention: (N or 1, h * w, h * w) self-attention, whose rows sum to 1.
    """
    flat = attention @ maps.flatten(1)[..., None]
    return flat[..., 0].reshape(maps.shape)


def normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each (h, w) map stretched to [0, 1]; a flat one, but for rounding, becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    flat = high - low <= _FLAT * high.abs()
    return torch.where(flat, 0.0, (maps - low) / (high - low).clamp(min=1e-12))


def completed(maps: np.ndarray, attention: torch.Tensor, grid: Grid, share: float) -> np.ndarray:
    """(N, H, W): the mean of each map and its completion, both stretched to [0, 1] for that, brought back to
    the map's own mean and maximum: how far it peaks says whether it points at anything at all.

    maps: (N, H, W). attention: (1, h * w, h * w). share: of the completion.
    """
    if not len(maps):
        return maps
    given = torch.from_numpy(maps).to(attention.device)
    coarse = functional.interpolate(given[:, None], grid, mode="area")[:, 0]
    whole = resize_map(complete(coarse, attention), (maps.shape[1], maps.shape[2]))
    mixed = normalised((1 - share) * normalised(given) + share * normalised(whole))
    mean, high = given.mean((1, 2), keepdim=True), given.amax((1, 2), keepdim=True)
    below = 1 - mixed
    found = high - (high - mean) * below / below.mean((1, 2), keepdim=True).clamp(min=1e-12)
    return np.asarray(found.cpu().numpy(), np.float32)


@contextmanager
def completing(
    unet: torch.nn.Module, latent_size: Grid, count: int, share: float
) -> Iterator[Callable[[int, np.ndarray], np.ndarray]]:
    """Inside the block, self-attention of `count` images is captured; what it gives completes the (N, H, W)
    maps of one of them, or leaves them as they are where the share is 0.
    """
    if not share:
        yield lambda image, maps: maps
        return
    grid = self_attention_grid(unet, latent_size, _MOST)
    with capture_self_attention(unet, grid, count) as own:
        yield lambda image, maps: completed(maps, own.mean(slice(image, image + 1)), grid, share)


def self_attention_grid(unet: Any, latent_size: Grid, most: int) -> Grid:
    """The finest grid of at most `most` positions that has self-attention; raises `ConfigError`."""
    grid, usable = latent_size, []
    for name in unet.config.down_block_types:
        if "Attn" in name:
            usable.append(grid)
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    fitting = [found for found in usable if found[0] * found[1] <= most]
    if not fitting:
        raise ConfigError(
            f"the UNet has self-attention on no grid of at most {most} positions; use smaller images"
        )
    return fitting[0]
