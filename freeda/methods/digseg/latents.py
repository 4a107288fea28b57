"""Masks as a diffusion model's latents, and back.

Shapes: `B` masks, `c` latent channels, `h w` latents, `H W` pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from freeda.models.diffusion import encode_latents

__all__ = ["MaskLatents"]

_MASKS_AT_ONCE = 8


class MaskLatents(nn.Module):
    """What is measured of a training's masks: the scale of their latents, and how to read a mask from them.

    The autoencoder was made for photographs: the latents of black-and-white pictures are off centre, with
    channels of very different scale. They are brought to mean 0 and standard deviation 1.
    """

    mean: torch.Tensor
    std: torch.Tensor
    readout: torch.Tensor
    offset: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, size in (("mean", channels), ("std", channels), ("readout", channels), ("offset", 1)):
            self.register_buffer(name, torch.zeros(size))

    @torch.no_grad()
    def fit(self, pipeline: Any, masks: torch.Tensor) -> None:
        """masks: (B, H, W) in [-1, 1]. The read-out is the least-squares one."""
        channels = len(self.mean)
        moments = torch.zeros(channels + 1, channels + 1, dtype=torch.float64)
        products = torch.zeros(channels + 1, dtype=torch.float64)
        for some in masks.split(_MASKS_AT_ONCE):
            raw = _encoded(pipeline, some).double().cpu()
            grid = (raw.shape[-2], raw.shape[-1])
            wanted = functional.adaptive_avg_pool2d(some[:, None].double().cpu(), grid).flatten()
            cells = functional.pad(raw.permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)
            moments += cells.T @ cells
            products += cells.T @ wanted
        count = moments[-1, -1]
        mean = moments[-1, :-1] / count
        std = (moments.diagonal()[:-1] / count - mean.square()).clamp(min=1e-12).sqrt()
        # With a little ridge, for the masks of a strange autoencoder may vary along fewer directions.
        ridge = 1e-6 * count * torch.eye(channels + 1, dtype=torch.float64)
        weights = torch.linalg.solve(moments + ridge, products)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.readout.copy_(weights[:-1] * std)
        self.offset.copy_(weights[-1:] + weights[:-1] @ mean)

    def encode(self, pipeline: Any, masks: torch.Tensor) -> torch.Tensor:
        """(B, c, h, w) float32, standardised, of (B, H, W) masks in [-1, 1]."""
        return (_encoded(pipeline, masks) - self.mean[:, None, None]) / self.std[:, None, None]

    def read(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, h, w): the masks' means over the latents' cells, about -1 to 1, without decoding."""
        read = torch.einsum("bchw,c->bhw", latents, self.readout.to(latents.dtype))
        return read + self.offset.to(latents.dtype)

    @torch.no_grad()
    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """(B, H, W) float32 masks, about -1 to 1: the mean of the decoded channels. They are not cut off, for
        masks that all reach 1 could not be told apart.
        """
        raw = latents.float() * self.std[:, None, None] + self.mean[:, None, None]
        raw = (raw / pipeline.vae.config.scaling_factor).to(pipeline.vae.dtype)
        masks: torch.Tensor = pipeline.vae.decode(raw).sample.float().mean(1)
        return masks


def _encoded(pipeline: Any, masks: torch.Tensor) -> torch.Tensor:
    pictures = (masks[:, None] / 2 + 0.5).expand(-1, 3, -1, -1)
    return encode_latents(pipeline, pictures).float()
