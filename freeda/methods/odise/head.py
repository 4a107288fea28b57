"""From taps of a diffusion model to masks, and to embeddings that class texts are compared with.

Mask2Former's pixel decoder and transformer decoder are transformers' own; classes are not outputs of the
network but texts given with each call (ODISE, section 3.3).

Shapes: `B` images, `Q` queries, `D` width, `K` width of CLIP's texts, `N` texts, `h w` the finest stride's
grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from freeda.errors import ConfigError
from freeda.methods.odise.settings import NetworkSettings

__all__ = ["Head", "MaskQueries", "mask2former_config"]

_LARGEST_SCALE = 100.0
_FIRST_TEMPERATURE = 0.07


@dataclass(frozen=True)
class MaskQueries:
    """What one layer of the decoder says of every query.

    masks: (B, Q, h, w) logits. embeddings: (B, Q, D), to be compared with texts.
    """

    masks: torch.Tensor
    embeddings: torch.Tensor


class Head(nn.Module):
    """The trained network behind the taps.

    channels: of every tap. text_width: K.
    """

    def __init__(self, channels: Sequence[int], text_width: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.strides = settings.strides
        self.taps = nn.ModuleList(
            _Bottleneck(count, settings.bottleneck, settings.tap_width) for count in channels
        )
        self.decoder = _Mask2Former(settings)
        width = settings.width
        self.pooled = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.embedding = nn.Sequential(nn.LayerNorm(width), _mlp(width, 3))
        self.text = nn.Linear(text_width, width)
        self.null = nn.Parameter(torch.randn(width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / _FIRST_TEMPERATURE)))

    def forward(self, taps: Sequence[torch.Tensor], size: tuple[int, int]) -> list[MaskQueries]:
        """Every layer's masks and embeddings, the last layer's last.

        taps: a (B, C, h, w) map per tap. size: (H, W) of the image in pixels.
        """
        layers, features = self.decoder(self._maps(taps, size))
        return [MaskQueries(masks, self._embed(masks, queries, features)) for masks, queries in layers]

    def class_logits(self, embeddings: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, Q, N + 1): scaled cosines of queries and of (N, K) texts; the last column is "no object"."""
        named = torch.cat([self.text(texts), self.null[None]])
        cosines = functional.normalize(embeddings, dim=-1) @ functional.normalize(named, dim=-1).T
        return cosines * self.log_scale.exp().clamp(max=_LARGEST_SCALE)

    def _maps(self, taps: Sequence[torch.Tensor], size: tuple[int, int]) -> list[torch.Tensor]:
        """One map per stride, the finest first: the sum of the taps that are nearest to it."""
        maps: list[torch.Tensor | None] = [None] * len(self.strides)
        for tap, project in zip(taps, self.taps, strict=True):
            level = self._level(size[0] / tap.shape[-2])
            grid = (size[0] // self.strides[level], size[1] // self.strides[level])
            projected = project(tap.to(self.null.dtype))
            projected = functional.interpolate(projected, grid, mode="bilinear", align_corners=False)
            held = maps[level]
            maps[level] = projected if held is None else held + projected
        return [_required(found, stride) for found, stride in zip(maps, self.strides, strict=True)]

    def _level(self, stride: float) -> int:
        level = round(math.log2(stride / self.strides[0]))
        return min(max(level, 0), len(self.strides) - 1)

    def _embed(self, masks: torch.Tensor, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(B, Q, D): each query with the mean of the features under its mask."""
        inside = (masks.detach() > 0).to(features.dtype).flatten(2)
        total = inside @ features.flatten(2).transpose(1, 2)
        mean = total / inside.sum(-1, keepdim=True).clamp(min=1)
        embedded: torch.Tensor = self.embedding(self.pooled(mean) + queries)
        return embedded


class _Mask2Former(Mask2FormerPreTrainedModel):
    """Pixel decoder and transformer decoder, initialised as transformers initialises them."""

    def __init__(self, settings: NetworkSettings) -> None:
        config = mask2former_config(settings)
        super().__init__(config)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, [settings.tap_width] * len(settings.strides))
        self.transformer_module = Mask2FormerTransformerModule(settings.width, config)
        self.post_init()

    def forward(
        self, maps: Sequence[torch.Tensor]
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """(B, Q, h, w) mask logits and (B, Q, D) queries of every layer; (B, D, h, w) mask features."""
        pixels = self.pixel_decoder(list(maps), return_dict=True)
        found = self.transformer_module(pixels.multi_scale_features, pixels.mask_features)
        queries = [states.transpose(0, 1) for states in found.intermediate_hidden_states]
        return list(zip(found.masks_queries_logits, queries, strict=True)), pixels.mask_features


def mask2former_config(settings: NetworkSettings, labels: int = 1, points: int = 1024) -> Mask2FormerConfig:
    """The settings as transformers' modules take them."""
    return Mask2FormerConfig(
        feature_size=settings.width,
        mask_feature_size=settings.width,
        hidden_dim=settings.width,
        encoder_feedforward_dim=settings.encoder_feedforward,
        dim_feedforward=settings.feedforward,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers + 1,  # transformers counts the prediction before the first
        num_attention_heads=settings.heads,
        num_queries=settings.queries,
        feature_strides=list(settings.strides),
        common_stride=settings.strides[0],
        dropout=0.0,
        num_labels=labels,
        no_object_weight=0.1,
        train_num_points=points,
    )


class _Bottleneck(nn.Module):
    """A residual bottleneck with group norm (He et al. 2016; as Detectron2 builds it)."""

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False),
            _norm(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False),
            _norm(middle),
            nn.ReLU(),
            nn.Conv2d(middle, out, 1, bias=False),
            _norm(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), _norm(out))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(values) + self.shortcut(values))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32 if channels % 32 == 0 else 1, channels)


def _mlp(width: int, layers: int) -> nn.Module:
    parts: list[nn.Module] = []
    for number in range(layers):
        parts += [nn.Linear(width, width), nn.ReLU()] if number + 1 < layers else [nn.Linear(width, width)]
    return nn.Sequential(*parts)


def _required(found: torch.Tensor | None, stride: int) -> torch.Tensor:
    if found is None:
        raise ConfigError(f"no tap is near stride {stride}; set other methods.odise.taps or strides")
    return found
