"""The denoiser and text encoder of the toy Stable Diffusion, trained together in latent space.

First on windows of 64 and 96 pixels around things, where shapes are learnt fast, then on whole scenes. The
middle of the UNet is meanwhile drawn towards the dense backbone's features of the same place (REPA, Yu et al.
2025; at the middle of a UNet as in U-REPA, Tian et al. 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

from freeda.toyworld.train.crops import CELL, SceneBoxes, draw_crops
from freeda.toyworld.train.data import CAPTIONS_PER_SCENE, IMAGE_SIZE, SceneCache
from freeda.training.loop import Plan

__all__ = ["PLAN", "DiffusionTask", "assemble_pipeline"]

PLAN = Plan(steps=20_000, minutes=300, batch=32, learning_rate=8e-4, warmup=200, ema_decay=0.9985)
_CROPS_UNTIL = 0.8
"""Share of the training that sees windows; the rest sees whole scenes."""
_CROP_SIDES, _CROP_SHARES = (64, 96), (0.65, 0.35)
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
_ALIGNMENT_WEIGHT = 0.5
_ALIGNED_PIXELS = 8
"""Features are compared on a grid of so many pixels."""


class DiffusionTask:
    """v-prediction (Salimans & Ho 2022) on cached latents.

    latents: (N, 2 x 4, 32, 32), mean and log-variance of every scene.
    features: (N, D, h, w), dense features of every scene.
    start: a finished pipeline whose weights training begins with; None for fresh ones.
    """

    name = "denoiser"
    figures: Mapping[str, float] = {}

    def __init__(
        self,
        latents: torch.Tensor,
        features: np.ndarray,
        scenes: SceneCache,
        tokenizer: CLIPTokenizer,
        device: torch.device,
        start: StableDiffusionPipeline | None = None,
    ) -> None:
        unet = _unet(latents.shape[1] // 2)
        self.network: nn.Module = nn.ModuleDict(
            {
                "unet": unet,
                "text_encoder": _text_encoder(tokenizer),
                "projection": _projection(unet.config.block_out_channels[-1], features.shape[1]),
            }
        ).to(device)
        self.scaling_factor = float(1 / latents[:2000].float().chunk(2, dim=1)[0].std())
        if start is not None:
            self.scaling_factor = float(start.vae.config.scaling_factor)
            for name in ("unet", "text_encoder"):
                self.part(name).load_state_dict(getattr(start, name).state_dict())
        if device.type == "cpu":
            # The fused attention's backward pass would take a quarter of a step's time here.
            self.part("unet").set_attn_processor(AttnProcessor())
        self._middle = _Middle(self.part("unet"))
        self._latents, self._features = latents, features
        self._scenes, self._boxes = scenes, SceneBoxes.of(scenes)
        self._fitting = {side: self._boxes.scenes_fitting(side) for side in _CROP_SIDES}
        self._tokenizer = tokenizer
        self._schedule = DDPMScheduler(**_SCHEDULE)
        self._device = device

    def part(self, name: str) -> Any:
        """The trained part of that name: `unet` or `text_encoder`."""
        return getattr(self.network, name)

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        views = self._views(numbers, rng, progress)
        clean = self._sample_latents(views, rng)
        noise = _normal(rng, clean.shape).to(self._device)
        timesteps = _timesteps(rng, len(numbers)).to(self._device)
        noisy = self._schedule.add_noise(clean, noise, timesteps)
        target = self._schedule.get_velocity(clean, noise, timesteps)
        states = self.part("text_encoder")(self._prompts(views, rng)).last_hidden_state
        predicted = self.part("unet")(noisy, timesteps, states).sample
        weight = self._weight(views)
        denoising = (weight * (predicted.float() - target) ** 2).mean() / weight.mean()
        return denoising + _ALIGNMENT_WEIGHT * self._misalignment(views)

    def _views(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> _Views:
        if progress >= _CROPS_UNTIL:
            chosen = rng.integers(0, CAPTIONS_PER_SCENE, len(numbers))
            captions = [self._scenes.captions[n][c] for n, c in zip(numbers, chosen, strict=True)]
            return _Views(numbers, np.zeros((len(numbers), 2), np.int64), IMAGE_SIZE, captions)
        side = int(rng.choice(_CROP_SIDES, p=_CROP_SHARES))
        fitting = self._fitting[side]
        if len(fitting):
            numbers = fitting[numbers % len(fitting)]
        crops = draw_crops(self._scenes, self._boxes, numbers, side, rng)
        return _Views(numbers, crops.corners, side, crops.captions)

    def _weight(self, views: _Views) -> torch.Tensor:
        """(B, 1, h, w): `_THING_WEIGHT` where a thing stands, 1 on the ground."""
        things = views.cut(torch.from_numpy(self._scenes.things(views.numbers)[:, None]).float(), 1)
        return 1 + (_THING_WEIGHT - 1) * functional.avg_pool2d(things.to(self._device), CELL)

    def _sample_latents(self, views: _Views, rng: np.random.Generator) -> torch.Tensor:
        mean, logvar = views.cut(self._latents[views.numbers].float(), CELL).chunk(2, dim=1)
        spread = (0.5 * logvar.clamp(-30, 20)).exp()
        sample = mean + spread * _normal(rng, mean.shape)
        return (sample * self.scaling_factor).to(self._device)

    def _prompts(self, views: _Views, rng: np.random.Generator) -> torch.Tensor:
        kept = rng.random(len(views.captions)) >= _DROPPED_CAPTIONS
        texts = [caption if keep else "" for caption, keep in zip(views.captions, kept, strict=True)]
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return self._tokenizer(texts, **options).input_ids.to(self._device)

    def _misalignment(self, views: _Views) -> torch.Tensor:
        """1 - the mean cosine of the UNet's projected middle features and the backbone's there."""
        cells = views.side // _ALIGNED_PIXELS
        held = torch.from_numpy(self._features[views.numbers]).float()
        wanted = functional.grid_sample(held, views.grid(cells), padding_mode="border", align_corners=False)
        found = self.network.projection(self._middle.output).float()  # type: ignore[operator]
        found = functional.interpolate(found, (cells, cells), mode="bilinear", align_corners=False)
        return 1 - functional.cosine_similarity(found, wanted.to(self._device), dim=1).mean()


@dataclass(frozen=True)
class _Views:
    """Square windows of scenes. numbers: (B,) scenes; corners: (B, 2) pixels; side: pixels; captions: B."""

    numbers: np.ndarray
    corners: np.ndarray
    side: int
    captions: list[str]

    def cut(self, maps: torch.Tensor, cell: int) -> torch.Tensor:
        """(B, C, side / cell, side / cell) windows of (B, C, H, W) maps of the scenes, a value per `cell`."""
        side = self.side // cell
        return torch.stack(
            [
                one[:, top : top + side, left : left + side]
                for one, (top, left) in zip(maps, self.corners // cell, strict=True)
            ]
        )

    def grid(self, cells: int) -> torch.Tensor:
        """(B, cells, cells, 2) centres of a window's cells, as `grid_sample` takes them."""
        centres = (np.arange(cells) + 0.5) * self.side / cells
        rows, columns = ((self.corners[:, axis, None] + centres) / IMAGE_SIZE * 2 - 1 for axis in (0, 1))
        shape = (len(self.corners), cells, cells)
        grid = np.stack(
            [np.broadcast_to(columns[:, None, :], shape), np.broadcast_to(rows[:, :, None], shape)], -1
        )
        return torch.from_numpy(grid.astype(np.float32))


class _Middle:
    """What the UNet's middle block gave last."""

    output: torch.Tensor

    def __init__(self, unet: UNet2DConditionModel) -> None:
        unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.output = output


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


def _projection(width: int, wanted: int) -> nn.Module:
    """From the UNet's features to the backbone's; of use in training only."""
    return nn.Sequential(nn.Conv2d(width, 2 * wanted, 1), nn.SiLU(), nn.Conv2d(2 * wanted, wanted, 1))


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


def _timesteps(rng: np.random.Generator, count: int) -> torch.Tensor:
    shaping = rng.random(count) < _SHAPING_SHARE
    first, last = _SHAPING
    return torch.from_numpy(rng.integers(np.where(shaping, first, 0), np.where(shaping, last, 1000)))


def _normal(rng: np.random.Generator, shape: torch.Size) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), np.float32))
