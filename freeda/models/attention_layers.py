"""Listens to a denoiser's attention layers: to the queries and keys that they compute for themselves.

Hooks change no bit of a layer's output, and processors stay as they are, whichever they are. A denoiser is a
UNet, whose layers attend either to the image or to the text, or Stable Diffusion 3's transformer, whose
layers attend to both at once.

Shapes: `B` images, `h w` a layer's grid, `T` keys, `d` channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch.utils.hooks import RemovableHandle

__all__ = ["Call", "Grid", "Record", "listen_to_image_attention", "listen_to_text_attention"]

Grid = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """What an attention layer computed of its inputs.

    query, key: (B, heads, h * w, d) and (B, heads, T, d), with the layer's own norms.
    mask: (B, 1, 1, T), added to the logits; None for none.
    first_text: number of the first key that is of the text; those before it are of the image.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    first_text: int = 0

    def conditional(self, count: int) -> Call:
        """The last `count` images: the conditional half under guidance, else all of them."""
        found = len(self.query)
        if found not in (count, 2 * count):
            raise ValueError(
                f"the denoiser got a batch of {found} while {count} images are captured; expected {count}, "
                f"or {2 * count} under guidance"
            )
        if found == count:
            return self
        mask = None if self.mask is None else self.mask[-count:]
        return replace(self, query=self.query[-count:], key=self.key[-count:], mask=mask)


Record = Callable[[Call, Grid], None]


@contextmanager
def listen_to_text_attention(denoiser: torch.nn.Module, record: Record) -> Iterator[None]:
    """Calls `record` after every layer that attends to the text has run."""
    with _hooks() as hooks:
        if isinstance(denoiser, SD3Transformer2DModel):
            joint = [_JointListener(cast(Any, block).attn, record) for block in denoiser.transformer_blocks]
            hooks += _listening(denoiser, joint, denoiser.config.patch_size)
        else:
            hooks += _listening_to_unet(denoiser, "attn2", record)
        yield


@contextmanager
def listen_to_image_attention(unet: torch.nn.Module, record: Record) -> Iterator[None]:
    """Calls `record` after every layer of a UNet that attends to the image has run."""
    with _hooks() as hooks:
        hooks += _listening_to_unet(unet, "attn1", record)
        yield


@contextmanager
def _hooks() -> Iterator[list[RemovableHandle]]:
    """Removes at its end what was put into it."""
    hooks: list[RemovableHandle] = []
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()


def _listening_to_unet(unet: torch.nn.Module, name: str, record: Record) -> Iterator[RemovableHandle]:
    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            layers = [getattr(block, name) for block in cast(Any, module).transformer_blocks]
            yield from _listening(module, [_Listener(layer, record) for layer in layers if layer is not None])


def _listening(
    module: torch.nn.Module, listeners: Sequence[_Listener], patch: int = 1
) -> Iterator[RemovableHandle]:
    """patch: side of the part of the module's input that is one query."""

    def note_grid(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module flattens its (B, C, h, w) input; only here is the true grid known."""
        hidden = args[0] if args else kwargs["hidden_states"]
        for listener in listeners:
            listener.grid = (hidden.shape[-2] // patch, hidden.shape[-1] // patch)

    yield module.register_forward_pre_hook(note_grid, with_kwargs=True)
    for listener in listeners:
        yield from listener.hooks()


class _Listener:
    """Notes a layer's queries and keys as its processor computes them."""

    def __init__(self, layer: Attention, record: Record) -> None:
        self._layer, self._record = layer, record
        self.grid: Grid = (0, 0)
        self._found: dict[str, torch.Tensor] = {}

    def hooks(self) -> Iterator[RemovableHandle]:
        layer = self._layer
        yield self._noting("query", layer.norm_q or layer.to_q)
        yield self._noting("key", layer.norm_k or layer.to_k)
        yield layer.register_forward_hook(self._finish, with_kwargs=True)

    def _noting(self, name: str, module: Any) -> RemovableHandle:
        def note(module: Any, args: Any, output: torch.Tensor) -> None:
            self._found[name] = output

        handle: RemovableHandle = module.register_forward_hook(note)
        return handle

    def _finish(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found, self._found = self._found, {}
        if not {"query", "key"} <= set(found):
            raise ValueError(
                "an attention layer computed its queries and keys together; call unfuse_qkv_projections() "
                "first"
            )
        by_head = {name: self._by_head(values) for name, values in found.items()}
        with torch.no_grad():
            self._record(self._call(by_head, kwargs.get("attention_mask")), self.grid)

    def _call(self, found: dict[str, torch.Tensor], mask: torch.Tensor | None) -> Call:
        if mask is not None:
            mask = mask.reshape(len(mask), 1, -1, mask.shape[-1]).to(found["query"].dtype)
        return Call(found["query"], found["key"], mask, self._layer.scale)

    def _by_head(self, values: torch.Tensor) -> torch.Tensor:
        """(B, heads, tokens, d) of (B, tokens, heads * d), or of what a norm gives by head already."""
        if values.ndim == 4:
            return values
        return values.unflatten(-1, (self._layer.heads, -1)).transpose(1, 2)


class _JointListener(_Listener):
    """Of a layer in which image and text attend to both: the image's queries, and the keys of both."""

    def hooks(self) -> Iterator[RemovableHandle]:
        yield from super().hooks()
        layer: Any = self._layer
        yield self._noting("text", layer.norm_added_k or layer.add_k_proj)

    def _call(self, found: dict[str, torch.Tensor], mask: torch.Tensor | None) -> Call:
        keys = torch.cat([found["key"], found["text"]], 2)
        return Call(found["query"], keys, mask, self._layer.scale, first_text=found["key"].shape[2])
