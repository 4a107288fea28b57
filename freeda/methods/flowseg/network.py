"""FlowSeg's network: the velocity of every pixel, from the points that all pixels have reached and the time.

Shapes: `B` images, `D` dimensions of the space of centroids, `H W` pixels, `N` tokens, `W` width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from freeda.methods.flowseg.blocks import Block, FieldBlock, TimeEmbedding, normed, patch_waves, rotations
from freeda.methods.flowseg.settings import NetworkSettings

__all__ = ["FlowNetwork", "as_points"]

_ALIGN_INNER = 2
"""Width of the projection's middle layer, relative to the tokens'."""


class FlowNetwork(nn.Module):
    """A transformer on patches, and a neural field that decodes each of its tokens into pixels.

    What only training uses is kept too, for a training that begins with these weights goes on with it: the
    projection that compares tokens with a backbone's features, and the tokens' classifier.
    centroids: (C, D), one per class.
    """

    centroids: torch.Tensor
    waves: torch.Tensor

    def __init__(self, settings: NetworkSettings, centroids: torch.Tensor) -> None:
        super().__init__()
        self.settings = settings
        width, patch, dimensions = settings.width, settings.patch, settings.dimensions
        self.register_buffer("centroids", centroids)
        self.register_buffer("waves", patch_waves(patch), persistent=False)
        self.patches = nn.Linear(dimensions * patch**2, width)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.blocks))
        self.token_norm = nn.RMSNorm(width)
        self.pixels = nn.Linear(dimensions + self.waves.shape[1], settings.field_width)
        self.field = nn.ModuleList(
            FieldBlock(width, settings.field_width, settings.field_ratio)
            for _ in range(settings.field_blocks)
        )
        self.pixel_norm = nn.RMSNorm(settings.field_width)
        self.velocity = nn.Linear(settings.field_width, dimensions)
        nn.init.zeros_(self.velocity.weight)
        nn.init.zeros_(self.velocity.bias)
        inner = _ALIGN_INNER * width
        self.alignment = (
            nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, settings.align_width))
            if settings.align_width
            else None
        )
        self.classifier = nn.Linear(width, len(centroids)) if settings.classifier else None

    def forward(self, x_t: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, D, H, W) velocities, and the (B, N, W) tokens of the block that is aligned and classified.

        x_t: (B, D, H, W), where H and W are multiples of the patch. time: (B,) in [0, 1].
        """
        patches = functional.pixel_unshuffle(x_t, self.settings.patch)  # (B, D * P, rows, columns)
        grid, embedded = (patches.shape[-2], patches.shape[-1]), self.time(time)
        first = self._pass(
            self.patches(_as_tokens(patches)).float(), embedded, grid, self.blocks[: self._depth]
        )
        tokens = self._pass(first, embedded, grid, self.blocks[self._depth :])
        tokens = normed(self.token_norm, tokens + embedded[:, None]).to(x_t.dtype)
        velocity = self._decode(patches, tokens)
        return functional.pixel_shuffle(velocity.unflatten(-1, grid), self.settings.patch), first

    def first_tokens(self, x_t: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """(B, N, W): the tokens that are aligned and classified, without what follows them."""
        patches = functional.pixel_unshuffle(x_t, self.settings.patch)
        grid, tokens = (patches.shape[-2], patches.shape[-1]), self.patches(_as_tokens(patches)).float()
        return self._pass(tokens, self.time(time), grid, self.blocks[: self._depth])

    @property
    def _depth(self) -> int:
        return self.settings.align_block

    def _pass(
        self, tokens: torch.Tensor, time: torch.Tensor, grid: tuple[int, int], blocks: nn.ModuleList
    ) -> torch.Tensor:
        rotation = rotations(grid, self.settings.width // self.settings.heads, tokens.device)
        for block in blocks:
            tokens = block(tokens, time, rotation)
        return tokens

    def _decode(self, patches: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D * P, N) velocities, of (B, D * P, rows, columns) patches and (B, N, W) tokens."""
        count = self.settings.dimensions
        points = patches.flatten(2).unflatten(1, (count, -1)).permute(0, 3, 2, 1).flatten(0, 1)
        waves = self.waves.to(points.dtype).expand(len(points), -1, -1)
        pixels = self.pixels(torch.cat([points, waves], -1)).float()
        for block in self.field:
            pixels = block(pixels, functional.silu(tokens.flatten(0, 1)))
        found = self.velocity(normed(self.pixel_norm, pixels).to(points.dtype))  # (B * N, P, D)
        parts: torch.Tensor = found.unflatten(0, tokens.shape[:2]).permute(0, 3, 2, 1).flatten(1, 2)
        return parts


def _as_tokens(patches: torch.Tensor) -> torch.Tensor:
    """(B, N, D * P) of (B, D * P, rows, columns)."""
    return patches.flatten(2).transpose(1, 2)


def as_points(images: torch.Tensor, dimensions: int) -> torch.Tensor:
    """(B, D, H, W): x_0, where pixels start. Images in [0, 1] become colours in [-1, 1], in the first three
    of the space's dimensions.
    """
    return functional.pad(images * 2 - 1, (0, 0, 0, 0, 0, dimensions - 3))
