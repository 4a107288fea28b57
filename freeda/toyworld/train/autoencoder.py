"""The image autoencoder of the toy Stable Diffusion: 128 px to 32 x 32 latents and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from freeda.files import replacing
from freeda.models.loading import weights_fingerprint
from freeda.toyworld.train.data import SceneCache
from freeda.training.loop import Plan

__all__ = ["PLAN", "AutoencoderTask", "copy_of", "edge_loss", "encode_scenes"]

PLAN = Plan(steps=20_000, minutes=9, batch=8, learning_rate=8e-4, ema_decay=0.998)
_CROP = 64
_KL_WEIGHT = 1e-4
_EDGE_WEIGHT = 0.5


class AutoencoderTask:
    """Reconstructs random crops (the network is convolutional: what it learns holds at any size)."""

    name = "autoencoder"
    figures: Mapping[str, float] = {}

    def __init__(self, scenes: SceneCache, device: torch.device) -> None:
        self.network = AutoencoderKL(
            latent_channels=4,
            block_out_channels=(32, 64, 128),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
            sample_size=128,
        ).to(device)
        self._scenes = scenes
        self._device = device

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        crops = self._crops(numbers, rng)
        posterior = self.network.encode(crops).latent_dist
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape, np.float32))
        latents = posterior.mean + posterior.std * noise.to(self._device)
        decoded = self.network.decode(latents).sample.float()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        return functional.l1_loss(decoded, crops) + _EDGE_WEIGHT * edge_loss(decoded, crops) + _KL_WEIGHT * kl

    def _crops(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        pixels = self._scenes.pixels(numbers, self._device)
        corners = rng.integers(0, pixels.shape[-1] - _CROP + 1, (len(numbers), 2))
        return torch.stack(
            [image[:, y : y + _CROP, x : x + _CROP] for image, (y, x) in zip(pixels, corners, strict=True)]
        )


def edge_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 between the images' first differences: keeps outlines and texture crisp."""
    difference = decoded - target
    return (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2


def copy_of(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """The same network without the folder it was loaded from, which would be saved with it."""
    settings = {name: value for name, value in autoencoder.config.items() if not name.startswith("_")}
    copied = AutoencoderKL.from_config(settings)
    copied.load_state_dict(autoencoder.state_dict())
    return copied.eval()


def encode_scenes(
    autoencoder: AutoencoderKL, scenes: SceneCache, cached: Path, device: torch.device
) -> torch.Tensor:
    """(N, 2 x 4, 32, 32) float16: mean and log-variance of every scene's latent distribution.

    They are kept in the file `cached` with the autoencoder's fingerprint, and computed again for another one.
    """
    made_by = weights_fingerprint(autoencoder.state_dict())
    if not cached.exists() or _made_by(cached) != made_by:
        with replacing(cached) as partial:
            save_file({"latents": _encode(autoencoder, scenes, device)}, partial, {"autoencoder": made_by})
    return load_file(cached)["latents"]


def _made_by(cached: Path) -> str | None:
    with safe_open(cached, "pt") as file:
        return (file.metadata() or {}).get("autoencoder")


@torch.inference_mode()
def _encode(autoencoder: AutoencoderKL, scenes: SceneCache, device: torch.device) -> torch.Tensor:
    parts = []
    for start in range(0, len(scenes), 16):
        numbers = np.arange(start, min(start + 16, len(scenes)))
        with torch.autocast(device.type, torch.bfloat16):
            parameters = autoencoder.encode(scenes.pixels(numbers, device)).latent_dist.parameters
        parts.append(parameters.half().cpu())
    return torch.cat(parts).contiguous()
