"""Cross-attention of a diffusion UNet: captured while it runs, aggregated by pure functions.

Shapes: `B` conditional images, `N` nouns of one image, `h w` an attention layer's grid, `T` text
tokens, `A` heads.

`capture_cross_attention` reduces while the UNet runs: of every layer and timestep it keeps a running sum of
the nouns' columns only, one small map per noun and grid. The layers' own processors still compute the output,
so that capturing changes no bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch.nn import functional

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

    sums: per image, from grid (h, w) to (N, h, w) float32: attention probabilities, averaged over heads and
        the noun's tokens.
    layers: how many layer calls each grid has had.
    """

    positions: Positions
    sums: list[dict[Grid, torch.Tensor]] = field(default_factory=list)
    layers: dict[Grid, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = [{} for _ in self.positions]

    def add(self, probabilities: torch.Tensor, grid: Grid) -> None:
        """Adds one layer call: (B, h * w, T) probabilities, averaged over heads."""
        for image, nouns in enumerate(self.positions):
            if not nouns:
                continue
            columns = torch.stack([probabilities[image][:, list(p)].mean(-1) for p in nouns])
            columns = columns.reshape(len(nouns), *grid)
            held = self.sums[image].get(grid)
            self.sums[image][grid] = columns if held is None else held.add_(columns)
        self.layers[grid] = self.layers.get(grid, 0) + 1

    def maps(self, image: int, *, latent_size: Grid) -> np.ndarray:
        """(N, H, W) float32 on the latent's grid: mean over heads, layers and timesteps."""
        if not self.positions[image]:
            return np.zeros((0, *latent_size), np.float32)
        return aggregate(self.sums[image], self.layers, latent_size)


def aggregate(sums: dict[Grid, torch.Tensor], layers: dict[Grid, int], latent_size: Grid) -> np.ndarray:
    """(N, H, W): bicubic to the latent's size, clamped at 0, averaged over layer calls.

    Grids of an eighth of the latent's side or less are too coarse to localise, and are left out unless there
    are no others (DAAM, section 3; FreeDA, section 3.1).
    """
    fine = {grid: total for grid, total in sums.items() if grid[0] * 8 > latent_size[0]} or sums
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

    The UNet must be called with `len(positions)` images, or twice as many under classifier-free guidance, the
    unconditional half first. At the end, also after an exception, the UNet is as it was.
    """
    maps = NounMaps(positions)

    def record(attn: Attention, inputs: _Inputs, grid: Grid) -> None:
        if inputs.text is None:
            return
        inputs = inputs.conditional(len(positions))
        query, key = _queries_and_keys(attn, inputs)
        maps.add(_probabilities(attn, query, key, inputs.mask).mean(1), grid)

    with _recording(unet, "attn2", record):
        yield maps


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

    def record(attn: Attention, inputs: _Inputs, found: Grid) -> None:
        if found != grid:
            return
        inputs = inputs.conditional(count)
        query, key = _queries_and_keys(attn, inputs)
        if held.total is None:
            tokens = query.shape[2]
            held.total = torch.zeros(count, tokens, tokens, device=query.device)
        for image in range(count):
            for head in range(attn.heads):
                one = (slice(image, image + 1), slice(head, head + 1))
                held.total[image] += _probabilities(attn, query[one], key[one], None)[0, 0]
        held.calls += attn.heads

    with _recording(unet, "attn1", record):
        yield held


@dataclass(frozen=True)
class _Inputs:
    """What an attention layer was called with; text is None for self-attention."""

    hidden: torch.Tensor
    text: torch.Tensor | None
    mask: torch.Tensor | None
    temb: torch.Tensor | None

    def conditional(self, count: int) -> _Inputs:
        """The last `count` images: the conditional half under guidance, else all of them."""
        if len(self.hidden) not in (count, 2 * count):
            raise ValueError(
                f"the UNet got a batch of {len(self.hidden)} while {count} images are captured; expected "
                f"{count}, or {2 * count} under guidance"
            )
        return _Inputs(
            *(
                None if part is None else part[-count:]
                for part in (self.hidden, self.text, self.mask, self.temb)
            )  # type: ignore[arg-type]
        )


_Record = Callable[[Attention, _Inputs, Grid], None]


@contextmanager
def _recording(unet: torch.nn.Module, name: str, record: _Record) -> Iterator[None]:
    """Calls `record` before every layer `name` ("attn1" or "attn2") of every transformer block."""
    installed: list[tuple[Attention, Any]] = []
    hooks = []
    try:
        for module in unet.modules():
            if isinstance(module, Transformer2DModel):
                recorders = _install(module, name, record, installed)
                hooks.append(module.register_forward_pre_hook(_grid_hook(recorders), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, processor in installed:
            layer.processor = processor


def _install(
    module: Transformer2DModel, name: str, record: _Record, installed: list[tuple[Attention, Any]]
) -> list[_Recorder]:
    recorders = []
    for block in cast(Any, module).transformer_blocks:
        layer = getattr(block, name)
        if layer is None:
            continue
        recorder = _Recorder(layer.processor, record)
        installed.append((layer, layer.processor))
        layer.processor = recorder
        recorders.append(recorder)
    return recorders


def _grid_hook(recorders: list[_Recorder]) -> Any:
    """The transformer flattens its (B, C, h, w) input; only here is the true grid known."""

    def note_grid(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        for recorder in recorders:
            recorder.grid = (hidden.shape[-2], hidden.shape[-1])

    return note_grid


class _Recorder:
    """A processor that records, and leaves the output to the layer's own processor."""

    def __init__(self, inner: Any, record: _Record) -> None:
        self._inner = inner
        self._record = record
        self.grid: Grid = (0, 0)

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        with torch.no_grad():
            self._record(attn, _Inputs(hidden_states, encoder_hidden_states, attention_mask, temb), self.grid)
        output: torch.Tensor = self._inner(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb=temb, **kwargs
        )
        return output


def _queries_and_keys(attn: Attention, inputs: _Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, heads, h * w, d) and (B, heads, T, d), with the layer's own norms."""
    hidden = inputs.hidden
    if attn.spatial_norm is not None:
        hidden = attn.spatial_norm(hidden, inputs.temb)
    if attn.group_norm is not None:
        hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    text = hidden if inputs.text is None else inputs.text
    if inputs.text is not None and attn.norm_cross:
        text = attn.norm_encoder_hidden_states(text)
    query, key = (
        projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for projected in (attn.to_q(hidden), attn.to_k(text))
    )
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return query, key


def _probabilities(
    attn: Attention, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """(B, heads, h * w, T) float32 softmax(Q K^T)."""
    # In float32 and scaled first: float16 overflows on some models' logits.
    scores = (query.float() * attn.scale) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores = scores + mask.float().reshape(len(scores), -1, 1, scores.shape[-1])
    return scores.softmax(-1)
