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


class MaskLatents(nn.Module):
    """What is measured of a training's masks: the scale of their latents, and how to read a mask from them.

    The autoencoder was made for photographs: the latents of black-and-white pictures are off centre, with
    channels of very different spread. They are brought to mean 0 and spread 1.
    """

    mean: torch.Tensor
    spread: torch.Tensor
    readout: torch.Tensor
    offset: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, size in (("mean", channels), ("spread", channels), ("readout", channels), ("offset", 1)):
            self.register_buffer(name, torch.zeros(size))

    @torch.no_grad()
    def fit(self, pipeline: Any, masks: torch.Tensor) -> None:
        """masks: (B, H, W) in [-1, 1]. The read-out is the least-squares one."""
        raw = _encoded(pipeline, masks).double()
        self.mean.copy_(raw.mean((0, 2, 3)))
        self.spread.copy_(raw.std((0, 2, 3)).clamp(min=1e-6))
        cells = self._standard(raw).permute(0, 2, 3, 1).flatten(0, 2)
        cells = functional.pad(cells, (0, 1), value=1.0)
        grid = (raw.shape[-2], raw.shape[-1])
        wanted = functional.adaptive_avg_pool2d(masks[:, None].double(), grid).flatten()
        solution = torch.linalg.lstsq(cells.cpu(), wanted.cpu()[:, None]).solution[:, 0]
        self.readout.copy_(solution[:-1])
        self.offset.copy_(solution[-1:])

    def encode(self, pipeline: Any, masks: torch.Tensor) -> torch.Tensor:
        """(B, c, h, w) float32, standardised, of (B, H, W) masks in [-1, 1]."""
        return self._standard(_encoded(pipeline, masks))

    def _standard(self, raw: torch.Tensor) -> torch.Tensor:
        return (raw - self.mean[:, None, None]) / self.spread[:, None, None]

    def read(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, h, w): the masks' means over the latents' cells, about -1 to 1, without decoding."""
        read = torch.einsum("bchw,c->bhw", latents, self.readout.to(latents.dtype))
        return read + self.offset.to(latents.dtype)

    @torch.no_grad()
    def decode(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """(B, H, W) float32 masks in [-1, 1]: the mean of the decoded channels."""
        raw = latents.float() * self.spread[:, None, None] + self.mean[:, None, None]
        raw = (raw / pipeline.vae.config.scaling_factor).to(pipeline.vae.dtype)
        masks: torch.Tensor = pipeline.vae.decode(raw).sample.float().mean(1).clamp(-1, 1)
        return masks


def _encoded(pipeline: Any, masks: torch.Tensor) -> torch.Tensor:
    pictures = (masks[:, None] / 2 + 0.5).expand(-1, 3, -1, -1)
    return encode_latents(pipeline, pictures).float()
