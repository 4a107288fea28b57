"""DiGSeg's network: a diffusion model's UNet that sees an image's latent beside a mask's, and a class's text.

Shapes: `B` queries, `c` latent channels, `h w` latents, `T D` text states, `K` CLIP's joint space.
"""

from __future__ import annotations

from contextvars import ContextVar
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from freeda.methods.digseg.latents import MaskLatents
from freeda.methods.digseg.settings import NetworkSettings

__all__ = ["SegmentingUNet", "TextPath"]

_TEXTS: ContextVar[torch.Tensor] = ContextVar("texts")
"""Of the queries that pass a UNet, for the hooks on its blocks; every thread has its own."""


class TextPath(nn.Module):
    """A class's CLIP embedding, as scale and shift of what every block of a UNet gives.

    Gates start at 0: the UNet is then what it was.
    """

    def __init__(self, width: int, channels: list[int]) -> None:
        super().__init__()
        self.changes = nn.ModuleList(nn.Linear(width, 2 * count) for count in channels)
        self.gates = nn.Parameter(torch.zeros(len(channels)))

    def forward(self, number: int, values: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) values of block `number`, changed by (B, K) texts."""
        # In float32: while gates are small, half precision would round 1 + gate * scale to 1.
        changes = self.changes[number](texts.to(self.gates.dtype)).float()
        scale, shift = changes[..., None, None].chunk(2, 1)
        gate = self.gates[number].float().tanh()
        changed: torch.Tensor = (values.float() * (1 + gate * scale) + gate * shift).to(values.dtype)
        return changed


class SegmentingUNet(nn.Module):
    """A copy of a pipeline's UNet with twice the input channels, all of which is trained.

    text_width: of CLIP's embeddings.
    """

    def __init__(self, unet: Any, settings: NetworkSettings, text_width: int) -> None:
        super().__init__()
        self.settings = settings
        self.unet = _with_twice_the_inputs(unet)
        self.masks = MaskLatents(unet.config.in_channels)
        blocks = [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]
        channels = [block.resnets[-1].out_channels for block in blocks]
        self.text_path = TextPath(text_width, channels) if settings.text_path else None
        if self.text_path is not None:
            for number, block in enumerate(blocks):
                block.register_forward_hook(partial(self._modulate, number))

    def forward(
        self,
        images: torch.Tensor,
        masks: torch.Tensor,
        steps: torch.Tensor,
        states: torch.Tensor,
        texts: torch.Tensor,
    ) -> torch.Tensor:
        """(B, c, h, w): the velocity of the masks' latents.

        images, masks: (B, c, h, w) latents. steps: (B,) timesteps. states: (B, T, D) of the prompts.
        texts: (B, K) unit embeddings of the names.
        """
        token = _TEXTS.set(texts)
        try:
            found: torch.Tensor = self.unet(torch.cat([images, masks], 1), steps, states).sample
        finally:
            _TEXTS.reset(token)
        return found

    def _modulate(self, number: int, block: nn.Module, inputs: Any, output: Any) -> Any:
        """A hook: changes a block's output, and of a block that also gives skips, its first."""
        assert self.text_path is not None
        texts = _TEXTS.get()
        if isinstance(output, tuple):
            return (self.text_path(number, output[0], texts), *output[1:])
        return self.text_path(number, output, texts)


def _with_twice_the_inputs(unet: Any) -> Any:
    """The old weights stand for both halves, halved: of twice the same latent, the output is the old one."""
    made = deepcopy(unet).requires_grad_(True)
    old = made.conv_in
    new = nn.Conv2d(
        2 * old.in_channels,
        old.out_channels,
        old.kernel_size,
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.copy_(torch.cat([old.weight, old.weight], 1) / 2)
        new.bias.copy_(old.bias)  # type: ignore[union-attr]
    made.conv_in = new
    made.register_to_config(in_channels=new.in_channels)
    return made
