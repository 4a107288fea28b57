"""The denoiser and text encoder of the toy Stable Diffusion, trained together in latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.train.loop import Plan

__all__ = ["PLAN", "DiffusionTask", "assemble_pipeline"]

PLAN = Plan(steps=10_800, minutes=300, batch=32, learning_rate=1.2e-3, warmup=200, ema_decay=0.9985)
_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}
_TEXT_WIDTH = 128
_DROPPED_CAPTIONS = 0.1
"""Share of captions replaced by the empty text: what classifier-free guidance needs."""
_SHAPING, _SHAPING_SHARE = (300, 950), 0.8
"""Most examples are noised to the timesteps at which shapes are decided. Below, a thing shows through the
noise, and its noun tells the denoiser nothing new; above, there is little but colour to predict.
"""
_THING_WEIGHT = 3.0
"""Weight of what stands on a ground, against the ground's own (unpredictable) grain."""


class DiffusionTask:
    """v-prediction (Salimans & Ho 2022) on cached latents."""

    name = "diffusion"

    def __init__(
        self,
        latents: torch.Tensor,
        scenes: SceneCache,
        tokenizer: CLIPTokenizer,
        device: torch.device,
    ) -> None:
        self.network: nn.Module = nn.ModuleDict(
            {"unet": _unet(latents.shape[1] // 2), "text_encoder": _text_encoder(tokenizer)}
        ).to(device)
        if device.type == "cpu":
            # The fused attention's backward pass would take a quarter of a step's time here.
            self.part("unet").set_attn_processor(AttnProcessor())
        self.scaling_factor = float(1 / latents[:2000].float().chunk(2, dim=1)[0].std())
        self._latents = latents
        self._scenes = scenes
        self._tokens = _tokenize(tokenizer, scenes)
        self._empty = _ids(tokenizer, [""])[0]
        self._schedule = DDPMScheduler(**_SCHEDULE)
        self._device = device

    def part(self, name: str) -> Any:
        """The trained part of that name: `unet` or `text_encoder`."""
        return getattr(self.network, name)

    def loss(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        clean = self._sample_latents(numbers, rng)
        noise = _normal(rng, clean.shape).to(self._device)
        timesteps = _timesteps(rng, len(numbers)).to(self._device)
        noisy = self._schedule.add_noise(clean, noise, timesteps)
        target = self._schedule.get_velocity(clean, noise, timesteps)
        states = self.part("text_encoder")(self._captions(numbers, rng)).last_hidden_state
        predicted = self.part("unet")(noisy, timesteps, states).sample
        weight = self._weight(numbers)
        return (weight * (predicted.float() - target) ** 2).mean() / weight.mean()

    def _weight(self, numbers: np.ndarray) -> torch.Tensor:
        """(B, 1, 32, 32): `_THING_WEIGHT` where a thing stands, 1 on the ground."""
        things = torch.from_numpy(self._scenes.things(numbers)).float().to(self._device)
        covered = functional.adaptive_avg_pool2d(things[:, None], self._latents.shape[-1])
        return 1 + (_THING_WEIGHT - 1) * covered

    def _sample_latents(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        mean, logvar = self._latents[numbers].float().chunk(2, dim=1)
        spread = (0.5 * logvar.clamp(-30, 20)).exp()
        sample = mean + spread * _normal(rng, mean.shape)
        return (sample * self.scaling_factor).to(self._device)

    def _captions(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        chosen = self._tokens[numbers, rng.integers(0, self._tokens.shape[1], len(numbers))]
        dropped = torch.from_numpy(rng.random(len(numbers)) < _DROPPED_CAPTIONS)
        return torch.where(dropped[:, None], self._empty, chosen).to(self._device)


def assemble_pipeline(
    autoencoder: AutoencoderKL, task: DiffusionTask, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The trained parts as an ordinary pipeline, ready for `save_pretrained`."""
    autoencoder.register_to_config(scaling_factor=task.scaling_factor)
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=task.part("text_encoder"),
        tokenizer=tokenizer,
        unet=task.part("unet"),
        scheduler=DPMSolverMultistepScheduler(**_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(48, 112, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _tokenize(tokenizer: CLIPTokenizer, scenes: SceneCache) -> torch.Tensor:
    """(N, captions a scene, tokens) int64."""
    flat = [caption for captions in scenes.captions for caption in captions]
    return _ids(tokenizer, flat).reshape(len(scenes), -1, tokenizer.model_max_length)


def _ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _timesteps(rng: np.random.Generator, count: int) -> torch.Tensor:
    shaping = rng.random(count) < _SHAPING_SHARE
    first, last = _SHAPING
    return torch.from_numpy(rng.integers(np.where(shaping, first, 0), np.where(shaping, last, 1000)))


def _normal(rng: np.random.Generator, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), np.float32))
