"""Masks from a segmenting UNet: in one step, or by denoising.

Shapes: `B` queries, `c` latent channels, `h w` latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.methods.digseg.unet import SegmentingUNet

__all__ = ["denoised", "last_step", "mask_schedule", "one_step", "pyramid_noise"]

_STRENGTH = 0.9


def mask_schedule(pipeline: Any) -> DDIMScheduler:
    """The pipeline's noise schedule, with nothing left of the mask at its end (zero terminal SNR; Lin et al.
    2024).

    Raises `ConfigError` for a model that predicts anything but the velocity, which alone has a meaning there.
    """
    predicted = pipeline.scheduler.config.get("prediction_type")
    if predicted != "v_prediction":
        raise ConfigError(
            f"DiGSeg needs a diffusion model that predicts velocities, such as Stable Diffusion 2.1; this "
            f"one predicts {predicted}; choose another --preset"
        )
    return DDIMScheduler.from_config(
        pipeline.scheduler.config,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def last_step(schedule: DDIMScheduler) -> int:
    """The timestep with the most noise."""
    return int(schedule.config.num_train_timesteps) - 1


def one_step(
    network: SegmentingUNet, images: torch.Tensor, states: torch.Tensor, texts: torch.Tensor, last: int
) -> torch.Tensor:
    """(B, c, h, w) latents of masks. At the last step the velocity is the mask's negative."""
    steps = torch.full((len(images),), last, device=images.device)
    return -network(images, torch.zeros_like(images), steps, states, texts)


def denoised(
    network: SegmentingUNet,
    schedule: DDIMScheduler,
    images: torch.Tensor,
    states: torch.Tensor,
    texts: torch.Tensor,
    *,
    steps: int,
    seeds: Sequence[int],
) -> torch.Tensor:
    """(B, c, h, w) latents of masks: the mean over some seeds, whose noise is the same for all queries."""
    schedule = copy(schedule)  # its steps are its state, and other threads have their own
    samples = []
    for seed in seeds:
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed))
        masks = noise.to(images).expand_as(images)
        schedule.set_timesteps(steps)
        for step in schedule.timesteps:
            velocity = network(images, masks, step.to(images.device).expand(len(images)), states, texts)
            masks = schedule.step(velocity, step, masks).prev_sample
        samples.append(masks)
    return torch.stack(samples).mean(0)


def pyramid_noise(
    shape: tuple[int, int, int, int], steps: torch.Tensor, last: int, generator: torch.Generator
) -> torch.Tensor:
    """(B, c, h, w) noise of variance 1 at several scales, the coarse ones weaker at early steps (Marigold's
    annealed multi-resolution noise).

    steps: (B,) timesteps. last: the one with the most noise.
    """
    noise = torch.randn(shape, generator=generator)
    strength = _STRENGTH * steps.cpu().float()[:, None, None, None] / last
    height, width = shape[-2:]
    level = 1
    while min(height, width) > 1:
        height, width = max(1, height // 2), max(1, width // 2)
        coarse = torch.randn((*shape[:2], height, width), generator=generator)
        enlarged = functional.interpolate(coarse, shape[-2:], mode="bilinear", align_corners=False)
        noise = noise + strength**level * enlarged
        level += 1
    return noise / noise.std((1, 2, 3), keepdim=True)
