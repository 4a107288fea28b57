"""Stable Diffusion through diffusers: loading, and seeded generation with noun maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.utils import logging
from torch import nn
from transformers.utils import logging as transformers_logging

from freeda.models.attention import Positions, capture_cross_attention
from freeda.models.completion import completing
from freeda.models.loading import is_folder, load_first, weights_fingerprint
from freeda.models.prompts import encode_prompts
from freeda.presets.settings import Localization, Synthesis
from freeda.records import SyntheticImage

__all__ = [
    "add_noise",
    "cast_pipeline",
    "denoiser_of",
    "encode_latents",
    "generate",
    "load_generator",
    "load_pipeline",
    "noise_latents",
    "noised_noun_maps",
    "pipeline_fingerprint",
]

_LOCALIZATION = Localization()
_PLAIN = {"StableDiffusionPipeline": "Stable Diffusion 1.x or 2.x"}
_GENERATORS = {
    **_PLAIN,
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
}
"""The classes of pipelines, and what they are called."""
_PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")


def load_pipeline(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Loads Stable Diffusion 1.x or 2.x, whose one UNet and text encoder the methods look into.

    Raises `ModelNotFoundError`.
    """
    return load_first("diffusion", ids, lambda model_id: _load_pipeline(model_id, device, dtype, _PLAIN))


def load_generator(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Loads a text-to-image pipeline that `generate` takes: Stable Diffusion 1.x, 2.x, XL or 3, or Turbo.

    Raises `ModelNotFoundError`.
    """
    return load_first("diffusion", ids, lambda model_id: _load_pipeline(model_id, device, dtype, _GENERATORS))


def _load_pipeline(model_id: str, device: torch.device, dtype: torch.dtype, known: Mapping[str, str]) -> Any:
    """known: the pipelines that will do, with their names for people."""
    if is_folder(model_id) and not (Path(model_id) / "model_index.json").exists():
        raise ValueError("folder has no model_index.json")
    index = DiffusionPipeline.load_config(model_id)
    if (kind := index["_class_name"]) not in known:
        raise ValueError(f"a {kind}; expected {', '.join(known.values())}")
    options: dict[str, Any] = {"use_safetensors": True, "torch_dtype": dtype}
    # The library takes no part's absence for granted, such as that of T5, by far the largest.
    options |= {part: None for part, source in index.items() if source == [None, None]}
    with _no_loading_bar():
        pipeline = DiffusionPipeline.from_pretrained(model_id, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def denoiser_of(pipeline: Any) -> nn.Module:
    """The UNet, or the transformer in its place."""
    found: nn.Module = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    return found


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Neither library draws a bar for each file that it reads."""
    shown = [module for module in (logging, transformers_logging) if module.is_progress_bar_enabled()]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def cast_pipeline(pipeline: Any, dtype: torch.dtype) -> None:
    """Casts all weights. (Diffusers' own way warns of modules to be kept in float32, even of none.)"""
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        nn.Module.to(part, dtype)


def pipeline_fingerprint(pipeline: Any) -> str:
    """One digest for denoiser, text encoders and decoder together."""
    weights: dict[str, torch.Tensor] = {}
    for part in _PARTS:
        if (module := getattr(pipeline, part, None)) is None:
            continue
        state = module.state_dict()
        weights |= {f"{part}.{name}": tensor for name, tensor in state.items()}
    return weights_fingerprint(weights)


def generate(
    pipeline: Any,
    captions: Sequence[str],
    positions: Positions,
    seeds: Sequence[int],
    config: Synthesis,
    *,
    localization: Localization = _LOCALIZATION,
) -> list[SyntheticImage]:
    """One image per caption, with the cross-attention map of each of its nouns.

    positions: per caption and noun, as `prompt_positions` gives them. Every caption has
    its own seed, drawn on the CPU, so that neither its batch nor the device changes its noise.
    localization: which attention counts (`coarsest`), and the share of the maps' `completion`, of a UNet.
    Values that are not finite come out as a black picture with maps of NaN.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latent_size = (config.height // pipeline.vae_scale_factor, config.width // pipeline.vae_scale_factor)
    denoiser = denoiser_of(pipeline)
    with (
        capture_cross_attention(denoiser, positions) as maps,
        completing(denoiser, latent_size, len(captions), localization.completion) as complete,
    ):
        pixels = pipeline(
            list(captions),
            height=config.height,
            width=config.width,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=generators,
            output_type="pt",
        ).images
    found = [
        complete(number, maps.maps(number, latent_size=latent_size, coarsest=localization.coarsest))
        for number in range(len(captions))
    ]
    return [
        SyntheticImage(_to_uint8(image), _maps_of(image, noun_maps))
        for image, noun_maps in zip(pixels, found, strict=True)
    ]


def _to_uint8(image: torch.Tensor) -> np.ndarray:
    array = torch.nan_to_num(image.float(), nan=0.0).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return (array * 255).round().astype(np.uint8)


def _maps_of(image: torch.Tensor, maps: np.ndarray) -> np.ndarray:
    return maps if bool(torch.isfinite(image).all()) else np.full_like(maps, np.nan)


@torch.no_grad()
def noise_latents(pipeline: Any, images: torch.Tensor, *, timestep: int, seed: int) -> torch.Tensor:
    """(B, channels, h, w): latents of (B, 3, H, W) float32 RGB images in [0, 1], noised to `timestep`."""
    latents = encode_latents(pipeline, images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    return add_noise(pipeline, latents, noise, timestep)


@torch.no_grad()
def encode_latents(pipeline: Any, images: torch.Tensor) -> torch.Tensor:
    """(B, channels, h, w): the posterior's modes of (B, 3, H, W) images in [0, 1], scaled for the UNet."""
    device, dtype = pipeline.unet.device, pipeline.unet.dtype
    latents = pipeline.vae.encode((images * 2 - 1).to(device, dtype)).latent_dist.mode()
    scaled: torch.Tensor = latents * pipeline.vae.config.scaling_factor
    return scaled


def add_noise(pipeline: Any, latents: torch.Tensor, noise: torch.Tensor, timestep: int) -> torch.Tensor:
    """Latents noised to `timestep`. noise: of their shape, or (channels, h, w) for all of them."""
    steps = torch.full((len(latents),), timestep, device=latents.device)
    # Multistep solvers add noise by their own step indices; the training schedule goes by timestep.
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    noisy: torch.Tensor = schedule.add_noise(latents, noise.to(latents).expand_as(latents), steps)
    return noisy


@torch.no_grad()
def noised_noun_maps(
    pipeline: Any,
    images: torch.Tensor,
    captions: Sequence[str],
    positions: Positions,
    *,
    timestep: int,
    seed: int,
    localization: Localization = _LOCALIZATION,
) -> list[np.ndarray]:
    """Noun maps of given images: noised to `timestep`, one UNet pass, the conditional half only.

    images: (B, 3, H, W) float32 RGB in [0, 1]. Returns (N, h, w) float32 per image, on the latent's grid.
    """
    noisy = noise_latents(pipeline, images, timestep=timestep, seed=seed)
    steps = torch.full((len(images),), timestep, device=noisy.device)
    states = encode_prompts(pipeline, captions)
    size = (noisy.shape[-2], noisy.shape[-1])
    with (
        capture_cross_attention(pipeline.unet, positions) as maps,
        completing(pipeline.unet, size, len(images), localization.completion) as complete,
    ):
        pipeline.unet(noisy, steps, states)
    return [
        complete(number, maps.maps(number, latent_size=size, coarsest=localization.coarsest))
        for number in range(len(images))
    ]
