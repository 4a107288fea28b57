"""The decoder of the toy Stable Diffusion, trained once more with the dense backbone as a judge.

The encoder stays as it is, and so do latents and denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from freeda.models.backbone import Backbone
from freeda.models.image_input import standardise
from freeda.toyworld.train.autoencoder import edge_loss
from freeda.toyworld.train.data import SceneCache
from freeda.training.loop import Plan

__all__ = ["PLAN", "DecoderTask"]

PLAN = Plan(steps=20_000, minutes=60, batch=8, learning_rate=4e-4, warmup=50, ema_decay=0.998)
_CROP, _CELL = 64, 8
_EDGE_WEIGHT = 0.5
_FEATURE_WEIGHT = 0.15
_ENLARGED = 1.5
"""As the preset enlarges images for the backbone."""
_NOISE = 0.3
"""Largest share of the latents' deviation that is added as noise: generated latents are not clean either."""


class DecoderTask:
    """Decodes crops of scenes from slightly noised latents.

    autoencoder: in float32; its decoder is trained in place.
    deviation: of the latents.
    """

    name = "decoder"
    figures: Mapping[str, float] = {}

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        backbone: Backbone,
        scenes: SceneCache,
        device: torch.device,
        deviation: float,
    ) -> None:
        self._autoencoder = autoencoder.to(device).requires_grad_(False)
        self.network: nn.Module = nn.ModuleDict(
            {"decoder": self._autoencoder.decoder, "post_quant_conv": self._autoencoder.post_quant_conv}
        ).requires_grad_(True)
        self._backbone, self._scenes, self._device = backbone, scenes, device
        self._deviation = deviation

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        crops = self._crops(numbers, rng)
        decoded = self._autoencoder.decode(self._noisy_latents(crops, rng)).sample.float()
        likeness = functional.cosine_similarity(self._features(decoded), self._features(crops), dim=1)
        pixels = functional.l1_loss(decoded, crops) + _EDGE_WEIGHT * edge_loss(decoded, crops)
        return pixels + _FEATURE_WEIGHT * (1 - likeness.mean())

    def _crops(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        pixels = self._scenes.pixels(numbers, self._device)
        corners = _CELL * rng.integers(0, (pixels.shape[-1] - _CROP) // _CELL + 1, (len(numbers), 2))
        return torch.stack(
            [image[:, y : y + _CROP, x : x + _CROP] for image, (y, x) in zip(pixels, corners, strict=True)]
        )

    @torch.no_grad()
    def _noisy_latents(self, crops: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        latents = self._autoencoder.encode(crops).latent_dist.mean
        noise = rng.standard_normal(tuple(latents.shape), np.float32)
        noise *= _NOISE * self._deviation * rng.random((len(noise), 1, 1, 1), np.float32)
        return latents + torch.from_numpy(noise).to(self._device)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) of (B, 3, H, W) images in [-1, 1], with their gradient."""
        enlarged = functional.interpolate(
            images / 2 + 0.5, scale_factor=_ENLARGED, mode="bilinear", align_corners=False
        )
        inputs = standardise(enlarged, self._backbone.mean, self._backbone.std)
        (features,) = self._backbone.network.forward_intermediates(
            inputs, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return features.float()
