"""What a frozen diffusion pipeline knows of an image: the inputs of some of its blocks.

The image's latent (the posterior's mean) is noised hardly or not at all, and passes the UNet once. Every
network runs no further than to its last tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from freeda.errors import ConfigError
from freeda.models.diffusion import add_noise, encode_latents
from freeda.models.prompts import encode_prompts, token_limit

__all__ = ["TappedPipeline"]

_PARTS = ("vae.encoder", "unet", "vae.decoder")


class _AllFound(Exception):
    """Ends a network's pass, for nothing after this point is read."""


class TappedPipeline:
    """Reads the inputs of a pipeline's blocks. Nothing of the pipeline is trained; gradients pass its UNet.

    taps: blocks as `PART.PATH`, with PART one of vae.encoder, unet and vae.decoder.
    Raises `ConfigError` for a block that the pipeline does not have.
    """

    def __init__(self, pipeline: Any, taps: Sequence[str], *, timestep: int, noise_seed: int) -> None:
        self.pipeline = pipeline
        self.taps = tuple(taps)
        self._timestep, self._noise_seed = timestep, noise_seed
        self._blocks = [_block(pipeline, name) for name in taps]
        for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
            part.eval().requires_grad_(False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of every tap, in order."""
        return tuple(block.in_channels for block in self._blocks)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and width of the text states that the UNet takes."""
        return token_limit(self.pipeline), self.pipeline.unet.config.cross_attention_dim

    @property
    def time_width(self) -> int:
        """Width of the UNet's time embedding."""
        width: int = self.pipeline.unet.time_embedding.linear_2.out_features
        return width

    @torch.no_grad()
    def empty_text(self) -> torch.Tensor:
        """(1, T, D): the states of the empty text."""
        return encode_prompts(self.pipeline, [""])

    def features(
        self, images: torch.Tensor, text: torch.Tensor, time: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """One (B, C, h, w) map per tap, in order.

        images: (B, 3, H, W) RGB in [0, 1].
        text: (B, T, D) states.
        time: (B, E), added to the time embedding.
        """
        found: dict[int, torch.Tensor] = {}
        with torch.no_grad(), self._listening("vae.encoder", found):
            latents = encode_latents(self.pipeline, images)
        with torch.no_grad(), self._listening("vae.decoder", found, stop=True) as listening:
            if listening:
                self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor)
        with self._listening("unet", found, stop=True) as listening, _added_to_time(self.pipeline.unet, time):
            if listening:
                seeded = torch.Generator().manual_seed(self._noise_seed)
                noise = torch.randn(latents.shape[1:], generator=seeded)
                noisy = add_noise(self.pipeline, latents, noise, self._timestep)
                steps = torch.full((len(images),), self._timestep, device=noisy.device)
                self.pipeline.unet(noisy, steps, text.to(noisy.dtype))
        return [found[number] for number in range(len(self.taps))]

    @contextmanager
    def _listening(self, part: str, found: dict[int, torch.Tensor], *, stop: bool = False) -> Iterator[bool]:
        """Keeps the inputs of a part's taps, and tells whether it has any.

        stop: whether the part's pass ends once all are found.
        """
        chosen = [number for number, name in enumerate(self.taps) if name.startswith(f"{part}.")]

        def keep(number: int, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[number] = inputs[0]
            if stop and found.keys() >= set(chosen):
                raise _AllFound

        handles = [self._blocks[n].register_forward_pre_hook(partial(keep, n)) for n in chosen]
        try:
            yield bool(chosen)
        except _AllFound:
            pass
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _added_to_time(unet: Any, time: torch.Tensor | None) -> Iterator[None]:
    if time is None:
        yield
        return
    added = time

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + added.to(output.dtype)

    handle = unet.time_embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _block(pipeline: Any, name: str) -> Any:
    if not name.startswith(tuple(f"{part}." for part in _PARTS)):
        raise ConfigError(f"tap '{name}' begins with none of {', '.join(_PARTS)}")
    try:
        block = _resolved(pipeline, name)
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise ConfigError(
            f"the diffusion model has no block '{name}'; set methods.odise.taps for its architecture"
        ) from error
    if not hasattr(block, "in_channels"):
        raise ConfigError(f"tap '{name}' is a {type(block).__name__}; expected a resnet block")
    return block


def _resolved(pipeline: Any, name: str) -> Any:
    part, _, path = name.partition(".")
    return getattr(pipeline, part).get_submodule(path) if path else getattr(pipeline, part)
