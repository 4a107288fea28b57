"""Cross-attention of a diffusion UNet: captured while it runs, aggregated by pure functions.

Shapes: `B` conditional images, `N` nouns of one image, `h w` an attention layer's grid, `T` text
tokens, `A` heads.

`capture_cross_attention` reduces while the UNet runs: of every layer and timestep it keeps a running sum of
the nouns' columns only, one small map per noun and grid. It listens to the queries and keys that the layers
compute for themselves, so that capturing changes no bit of their output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from freeda.presets.settings import COARSEST

__all__ = [
    "DegenerateMapError",
    "MeanSelfAttention",
    "NounMaps",
    "aggregate",
    "capture_cross_attention",
    "capture_self_attention",
    "localize",
    "resize_map",
]

Positions = Sequence[Sequence[Sequence[int]]]
"""Token positions, per image and noun."""
Grid = tuple[int, int]


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
def capture_cross_attention(unet: torch.nn.Module, positions: Positions) -> Iterator[NounMaps]:
    """Inside the block, every cross-attention layer of `unet` adds its nouns' columns to the result.

    positions: of every noun's tokens, per image.
    The UNet must be called with as many images, or twice as many under classifier-free guidance, the
    unconditional half first. At the end, also after an exception, it is as it was. While it runs, nothing
    passes between the host and the device.
    """
    parameter = next(unet.parameters())
    averaging = _Averaging(positions, parameter.device, parameter.dtype)
    maps = NounMaps([len(nouns) for nouns in positions])

    def record(call: _Call, grid: Grid) -> None:
        if averaging.nouns:
            maps.add(averaging.of(call.conditional(len(positions))), grid)

    with _recording(unet, "attn2", record):
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

    def of(self, call: _Call) -> torch.Tensor:
        """(B, h * w, N or more) float32."""
        parts = [
            functional.scaled_dot_product_attention(
                call.query, call.key, values, call.mask, scale=call.scale
            ).mean(1, dtype=torch.float32)
            for values in self._of_size(call.key)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _of_size(self, key: torch.Tensor) -> list[torch.Tensor]:
        """The matrix as values for (B, heads, T, d) keys: d columns in each part, the last one filled up."""
        size = tuple(key.shape)
        if size not in self._values:
            _, heads, tokens, depth = size
            missing = -self.nouns % depth
            whole = functional.pad(self._matrix, (0, missing, 0, tokens - self._matrix.shape[1]))
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

    def mean(self) -> torch.Tensor:
        """(B, h * w, h * w): where each position's attention goes; rows sum to 1."""
        if self.total is None:
            raise ValueError(f"no self-attention layer ran at {self.grid}")
        return self.total / self.calls


@contextmanager
def capture_self_attention(unet: torch.nn.Module, grid: Grid, count: int) -> Iterator[MeanSelfAttention]:
    """Inside the block, the self-attention layers of `unet` on `grid` add to the result.

    count: images of the conditional half. Heads and images are added one at a time, so that besides the sum
        only one (h * w, h * w) map is in memory.
    """
    held = MeanSelfAttention(grid)

    def record(call: _Call, found: Grid) -> None:
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

    with _recording(unet, "attn1", record):
        yield held


@dataclass(frozen=True)
class _Call:
    """What an attention layer computed of its inputs.

    query, key: (B, heads, h * w, d) and (B, heads, T, d), with the layer's own norms.
    mask: (B, 1, 1, T), added to the logits; None for none.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float

    def conditional(self, count: int) -> _Call:
        """The last `count` images: the conditional half under guidance, else all of them."""
        found = len(self.query)
        if found not in (count, 2 * count):
            raise ValueError(
                f"the UNet got a batch of {found} while {count} images are captured; expected {count}, or "
                f"{2 * count} under guidance"
            )
        if found == count:
            return self
        mask = None if self.mask is None else self.mask[-count:]
        return _Call(self.query[-count:], self.key[-count:], mask, self.scale)


_Record = Callable[[_Call, Grid], None]


@contextmanager
def _recording(unet: torch.nn.Module, name: str, record: _Record) -> Iterator[None]:
    """Calls `record` after every layer `name` ("attn1" or "attn2") of every transformer block has run.

    Hooks listen to what the layers compute anyway; processors stay as they are, whichever they are.
    """
    hooks: list[RemovableHandle] = []
    try:
        for module in unet.modules():
            if isinstance(module, Transformer2DModel):
                layers = [getattr(block, name) for block in cast(Any, module).transformer_blocks]
                listeners = [_Listener(layer, record) for layer in layers if layer is not None]
                hooks.append(module.register_forward_pre_hook(_grid_hook(listeners), with_kwargs=True))
                hooks += [hook for listener in listeners for hook in listener.hooks()]
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _grid_hook(listeners: list[_Listener]) -> Any:
    """The transformer flattens its (B, C, h, w) input; only here is the true grid known."""

    def note_grid(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        for listener in listeners:
            listener.grid = (hidden.shape[-2], hidden.shape[-1])

    return note_grid


class _Listener:
    """Notes a layer's queries and keys as its processor computes them."""

    def __init__(self, layer: Attention, record: _Record) -> None:
        self._layer, self._record = layer, record
        self.grid: Grid = (0, 0)
        self._query: torch.Tensor | None = None
        self._key: torch.Tensor | None = None

    def hooks(self) -> Iterator[RemovableHandle]:
        layer = self._layer
        yield (layer.norm_q or layer.to_q).register_forward_hook(self._note_query)
        yield (layer.norm_k or layer.to_k).register_forward_hook(self._note_key)
        yield layer.register_forward_hook(self._finish, with_kwargs=True)

    def _note_query(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self._query = output

    def _note_key(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self._key = output

    def _finish(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        query, key, self._query, self._key = self._query, self._key, None, None
        if query is None or key is None:
            raise ValueError(
                "an attention layer computed its queries and keys together; call unfuse_qkv_projections() "
                "first"
            )
        mask = kwargs.get("attention_mask")
        if mask is not None:
            mask = mask.reshape(len(mask), 1, -1, mask.shape[-1]).to(query.dtype)
        with torch.no_grad():
            call = _Call(self._by_head(query), self._by_head(key), mask, self._layer.scale)
            self._record(call, self.grid)

    def _by_head(self, values: torch.Tensor) -> torch.Tensor:
        """(B, heads, tokens, d) of (B, tokens, heads * d), or of what a norm gives by head already."""
        if values.ndim == 4:
            return values
        return values.unflatten(-1, (self._layer.heads, -1)).transpose(1, 2)
