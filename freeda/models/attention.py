"""Attention to the text of a diffusion model: captured while it runs, aggregated by pure functions.

Shapes: `B` conditional images, `N` nouns of one image, `h w` an attention layer's grid, `T` text
tokens, `A` heads.

`capture_cross_attention` reduces while the denoiser runs: of every layer and timestep it keeps a running sum
of the nouns' columns only, one small map per noun and grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from freeda.models.attention_layers import Call, Grid, listen_to_image_attention, listen_to_text_attention
from freeda.presets.settings import COARSEST

__all__ = [
    "DegenerateMapError",
    "Grid",
    "MeanSelfAttention",
    "NounMaps",
    "Positions",
    "aggregate",
    "capture_cross_attention",
    "capture_self_attention",
    "localize",
    "resize_map",
]

Positions = Sequence[Sequence[Sequence[int]]]
"""Token positions, per image and noun."""


@dataclass
class NounMaps:
    """Running sums of the nouns' attention, filled inside a capture.

    counts: nouns per image.
    totals: from grid (h, w) to (B, h * w, N) float32: attention probabilities, averaged over heads and each
        noun's tokens; columns beyond an image's nouns have no meaning.
    layers: how many layer calls each grid has had.
    """

    counts: Sequence[int]
    totals: dict[Grid, torch.Tensor] = field(default_factory=dict)
    layers: dict[Grid, int] = field(default_factory=dict)

    def add(self, attention: torch.Tensor, grid: Grid) -> None:
        """Adds one layer call: (B, h * w, N), averaged over heads and each noun's tokens."""
        held = self.totals.get(grid)
        self.totals[grid] = attention if held is None else held.add_(attention)
        self.layers[grid] = self.layers.get(grid, 0) + 1

    def sums(self, image: int) -> dict[Grid, torch.Tensor]:
        """From grid to an image's (N, h, w) sums."""
        count = self.counts[image]
        return {grid: total[image, :, :count].T.reshape(count, *grid) for grid, total in self.totals.items()}

    def maps(self, image: int, *, latent_size: Grid, coarsest: int = COARSEST) -> np.ndarray:
        """(N, H, W) float32 on the latent's grid: mean over heads, layers and timesteps, as `aggregate`."""
        if not self.counts[image]:
            return np.zeros((0, *latent_size), np.float32)
        return aggregate(self.sums(image), self.layers, latent_size, coarsest)


def aggregate(
    sums: dict[Grid, torch.Tensor],
    layers: dict[Grid, int],
    latent_size: Grid,
    coarsest: int = COARSEST,
) -> np.ndarray:
    """(N, H, W): bicubic to the latent's size, clamped at 0, averaged over layer calls.

    coarsest: grids of the latent's side divided by this, or less, are too coarse to localise, and left out
        unless there are no others (an eighth: DAAM, section 3; FreeDA, section 3.1).
    """
    limit = math.ceil(latent_size[0] / coarsest)  # odd sides are halved upwards
    fine = {grid: total for grid, total in sums.items() if grid[0] > limit} or sums
    resized = [resize_map(total.float(), latent_size).clamp(min=0) for total in fine.values()]
    calls = sum(layers[grid] for grid in fine)
    return (torch.stack(resized).sum(0) / calls).cpu().numpy()


def resize_map(maps: torch.Tensor, size: Grid) -> torch.Tensor:
    """(N, h, w) maps at another size, bicubic; smoothed where they shrink."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps[:, None], size, mode="bicubic", align_corners=False, antialias=True)[
        :, 0
    ]


class DegenerateMapError(ValueError):
    """An attention map that gives no mask; the message says why."""


def localize(
    noun_map: np.ndarray,
    size: Grid,
    *,
    threshold: float,
    min_area: float,
    max_area: float,
    min_peak: float,
) -> tuple[np.ndarray, float]:
    """A noun's mask at `size`, (H, W) bool, and its map's maximum over its mean.

    The map is min-max normalised, upsampled bicubically and thresholded. Raises `DegenerateMapError` for
    values that are not finite, a map without a peak, or a mask of implausible area.
    """
    if not np.isfinite(noun_map).all():
        raise DegenerateMapError("attention map is not finite")
    low, high = float(noun_map.min()), float(noun_map.max())
    peak = high / max(float(noun_map.mean()), 1e-12)
    if high - low < 1e-9 or peak < min_peak:
        raise DegenerateMapError("attention map has no peak")
    normalised = torch.from_numpy((noun_map - low) / (high - low))[None]
    mask = (resize_map(normalised, size)[0] > threshold).numpy()
    area = float(mask.mean())
    if area < min_area or not mask.any():
        raise DegenerateMapError("mask too small")
    if area > max_area:
        raise DegenerateMapError("mask covers the picture")
    return mask, peak


@contextmanager
def capture_cross_attention(denoiser: torch.nn.Module, positions: Positions) -> Iterator[NounMaps]:
    """Inside the block, every layer of `denoiser` that attends to the text adds its nouns' columns to the
    result.

    denoiser: a UNet, or Stable Diffusion 3's transformer.
    positions: of every noun's tokens among the text's, per image.
    The denoiser must be called with as many images, or twice as many under classifier-free guidance, the
    unconditional half first. At the end, also after an exception, it is as it was. While it runs, nothing
    passes between the host and the device.
    """
    parameter = next(denoiser.parameters())
    averaging = _Averaging(positions, parameter.device, parameter.dtype)
    maps = NounMaps([len(nouns) for nouns in positions])

    def record(call: Call, grid: Grid) -> None:
        if averaging.nouns:
            maps.add(averaging.of(call.conditional(len(positions))), grid)

    with listen_to_text_attention(denoiser, record):
        yield maps


class _Averaging:
    """The mean over each noun's tokens, and over heads, of attention probabilities.

    Probabilities times a matrix that averages the nouns' columns is attention with that matrix in the place
    of the values, so that the layer's own kernel computes it without the probabilities ever being in memory.
    """

    def __init__(self, positions: Positions, device: torch.device, dtype: torch.dtype) -> None:
        self.nouns = max((len(nouns) for nouns in positions), default=0)
        length = 1 + max((p for nouns in positions for noun in nouns for p in noun), default=0)
        matrix = torch.zeros(len(positions), length, self.nouns)
        for image, nouns in enumerate(positions):
            for column, noun in enumerate(nouns):
                matrix[image, list(noun), column] = 1 / len(noun)
        self._matrix = matrix.to(device, dtype)
        self._values: dict[tuple[int, ...], list[torch.Tensor]] = {}

    def of(self, call: Call) -> torch.Tensor:
        """(B, h * w, N or more) float32."""
        parts = [
            functional.scaled_dot_product_attention(
                call.query, call.key, values, call.mask, scale=call.scale
            ).mean(1, dtype=torch.float32)
            for values in self._of_size(call.key, call.first_text)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _of_size(self, key: torch.Tensor, first_text: int) -> list[torch.Tensor]:
        """The matrix as values for (B, heads, T, d) keys: d columns in each part, the last one filled up."""
        size = (*key.shape, first_text)
        if size not in self._values:
            _, heads, tokens, depth = key.shape
            missing, after = -self.nouns % depth, tokens - first_text - self._matrix.shape[1]
            whole = functional.pad(self._matrix, (0, missing, first_text, after))
            repeated = whole[:, None].expand(-1, heads, -1, -1)
            self._values[size] = [part.contiguous() for part in repeated.split(depth, -1)]
        return self._values[size]


@dataclass
class MeanSelfAttention:
    """The mean self-attention over heads and layers of one grid, filled inside a capture.

    grid: (h, w).
    total: (B, h * w, h * w) float32, the sum so far.
    calls: how many heads of layers were added.
    """

    grid: Grid
    total: torch.Tensor | None = None
    calls: int = 0

    def mean(self, images: slice = slice(None)) -> torch.Tensor:
        """(B, h * w, h * w), of all images or some: where each position's attention goes; rows sum to 1."""
        if self.total is None:
            raise ValueError(f"no self-attention layer ran at {self.grid}")
        return self.total[images] / self.calls


@contextmanager
def capture_self_attention(unet: torch.nn.Module, grid: Grid, count: int) -> Iterator[MeanSelfAttention]:
    """Inside the block, the self-attention layers of `unet` on `grid` add to the result.

    count: images of the conditional half. Heads and images are added one at a time, so that besides the sum
        only one (h * w, h * w) map is in memory.
    """
    held = MeanSelfAttention(grid)

    def record(call: Call, found: Grid) -> None:
        if found != grid:
            return
        call = call.conditional(count)
        if held.total is None:
            tokens = call.query.shape[2]
            held.total = torch.zeros(count, tokens, tokens, device=call.query.device)
        heads = call.query.shape[1]
        for image in range(count):
            for head in range(heads):
                # In float32 and scaled first: float16 overflows on some models' logits.
                query, key = call.query[image, head].float() * call.scale, call.key[image, head].float()
                held.total[image] += (query @ key.T).softmax(-1)
        held.calls += heads

    with listen_to_image_attention(unet, record):
        yield held
