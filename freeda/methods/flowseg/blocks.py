"""The layers of FlowSeg's network: a diffusion transformer, and a neural field per token (PixNerd).

Shapes: `B` images, `N` tokens, `P` pixels of a token's patch, `W` width.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Block", "FieldBlock", "TimeEmbedding", "normed", "patch_waves", "rotations"]

_BASE = 100.0
"""Of rotary embeddings: grids have tens of tokens a side."""
_TIME_WIDTH = 256


class TimeEmbedding(nn.Module):
    """(B, W) of times in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(_TIME_WIDTH, width), nn.Linear(width, width)

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        half = _TIME_WIDTH // 2
        scales = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device) / half)
        angles = 1000 * time[:, None] * scales
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        found: torch.Tensor = self.second(functional.silu(self.first(waves.to(self.first.weight.dtype))))
        return found


class Block(nn.Module):
    """Attention and a gated feed-forward layer, both scaled, shifted and gated by the time (DiT's adaLN-Zero;
    RMS norms, normalised queries and keys, rotary positions, SwiGLU).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = 32 * round(width * 8 / 3 / 32)
        self.first_norm, self.second_norm = (nn.RMSNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm, self.key_norm = (nn.RMSNorm(width // heads) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: torch.Tensor, time: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """tokens: (B, N, W), float32 whatever the weights are. time: (B, W). rotation: of `rotations`."""
        changes = self.modulation(functional.silu(time))[:, None].chunk(6, -1)
        shift, scale, gate, second_shift, second_scale, second_gate = changes
        dtype = self.qkv.weight.dtype
        inner = normed(self.first_norm, tokens).to(dtype) * (1 + scale) + shift
        tokens = tokens + gate * self._attention(inner, rotation)
        inner = normed(self.second_norm, tokens).to(dtype) * (1 + second_scale) + second_shift
        left, right = self.gate_up(inner).chunk(2, -1)
        changed: torch.Tensor = tokens + second_gate * self.down(functional.silu(left) * right)
        return changed

    def _attention(self, tokens: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        query = _rotated(normed(self.query_norm, query), rotation).to(value.dtype)
        key = _rotated(normed(self.key_norm, key), rotation).to(value.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        found: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found


class FieldBlock(nn.Module):
    """A residual layer on each pixel, whose weights follow from the pixel's token."""

    def __init__(self, token_width: int, width: int, ratio: int) -> None:
        super().__init__()
        self.width, self.inner = width, ratio * width
        self.weights = nn.Linear(token_width, 2 * width * self.inner)
        self.norm = nn.RMSNorm(width)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """pixels: (B * N, P, width). tokens: (B * N, W)."""
        up, down = self.weights(tokens).chunk(2, -1)
        up = functional.normalize(up.unflatten(-1, (self.width, self.inner)), dim=-2)
        down = functional.normalize(down.unflatten(-1, (self.inner, self.width)), dim=-2)
        inner = functional.silu(torch.bmm(normed(self.norm, pixels).to(up.dtype), up))
        changed: torch.Tensor = pixels + torch.bmm(inner, down)
        return changed


def patch_waves(patch: int, most: int = 8) -> torch.Tensor:
    """(P, F): every pixel's place in its patch, as products of cosines (a discrete cosine transform's)."""
    places = (torch.arange(patch) + 0.5) / patch
    waves = torch.cos(math.pi * torch.arange(min(patch, most)) * places[:, None])
    return torch.einsum("iu,jv->ijuv", waves, waves).reshape(patch * patch, -1)


def rotations(grid: tuple[int, int], channels: int, device: torch.device) -> torch.Tensor:
    """(N, channels / 2) angles of rotary embeddings on a (rows, columns) grid: a half of the channels turns
    with the row, the other with the column.
    """
    count = channels // 4
    scales = _BASE ** (-torch.arange(count, device=device) / count)
    rows, columns = (torch.arange(length, device=device)[:, None] * scales for length in grid)
    down = rows[:, None].expand(-1, grid[1], -1)
    across = columns[None].expand(grid[0], -1, -1)
    return torch.cat([down, across], -1).flatten(0, 1)


def normed(norm: nn.RMSNorm, values: torch.Tensor) -> torch.Tensor:
    """In float32, whatever values and weights are."""
    weight = None if norm.weight is None else norm.weight.float()
    return functional.rms_norm(values.float(), norm.normalized_shape, weight, norm.eps)


def _rotated(values: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """(B, heads, N, channels), each pair of channels turned by its angle."""
    first, second = values.float().chunk(2, -1)
    cosine, sine = rotation.cos(), rotation.sin()
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)
