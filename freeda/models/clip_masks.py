"""CLIP's image embedding of parts of an image, given as masks.

A ViT gets one more class token per mask, which attends to the positions under it (MaskCLIP, Ding et al. 2023;
ODISE's released code): a mask that covers everything gives the image's own embedding. A ResNet's part is the
projected mean of its pooling's values there (MaskCLIP, Zhou et al. 2022).

Shapes: `B` images, `Q` masks per image, `K` width of the joint space, `N` positions, `A` heads.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.models.clip import ClipModel
from freeda.models.image_input import resize, standardise

__all__ = ["embed_masks"]

_LEAST_COVER = 1e-6
"""Of a position; where a mask covers nothing at all, all positions count alike."""


@torch.inference_mode()
def embed_masks(
    clip: ClipModel, images: torch.Tensor, masks: torch.Tensor, *, scale: float = 1.0
) -> torch.Tensor:
    """(B, Q, K) float32 unit vectors.

    images: (B, 3, H, W) RGB in [0, 1]. masks: (B, Q, h, w), each pixel's share in the mask, in [0, 1].
    scale: the images are enlarged so many times beyond CLIP's own input size, for finer masks.
    Raises `ConfigError` for an image tower without attention pooling or class token.
    """
    size = tuple(round(side * scale) for side in clip.image_size)
    inputs = standardise(resize(images, (size[0], size[1])), clip.mean, clip.std)
    inputs = inputs.to(clip.device, clip.dtype)
    tower = clip.network.visual
    if isinstance(tower, ModifiedResNet):
        embedded = _by_resnet(tower, inputs, masks)
    elif isinstance(tower, VisionTransformer) and tower.pool_type == "tok" and tower.attn_pool is None:
        embedded = _by_vit(tower, inputs, masks)
    else:
        raise ConfigError(
            f"CLIP's image tower ({type(tower).__name__}) cannot embed parts of an image; choose a ResNet, "
            f"or a ViT with a class token"
        )
    return functional.normalize(embedded.float(), dim=-1)


def _cover(masks: torch.Tensor, grid: tuple[int, int], values: torch.Tensor) -> torch.Tensor:
    """(B, Q, N): the masks' shares of every position, the largest scaled to 1."""
    cover = functional.adaptive_avg_pool2d(masks.to(values), grid).flatten(2).clamp(min=_LEAST_COVER)
    return cover / cover.amax(-1, keepdim=True)


def _by_resnet(tower: Any, inputs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Without the pooling's queries and keys: on masks, its attention falls on a few positions whatever they
    show.
    """
    found = tower.stem(inputs)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        found = layer(found)
    grid, pool = (found.shape[-2], found.shape[-1]), tower.attnpool
    cover = _cover(masks, grid, found)
    positions = _resized_positions(pool.positional_embedding, grid)[1:].to(found)
    values = pool.v_proj(found.flatten(2).transpose(1, 2) + positions)
    return pool.c_proj(cover / cover.sum(-1, keepdim=True) @ values)


def _by_vit(tower: Any, inputs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    patches = tower.conv1(inputs)
    grid, queries = (patches.shape[-2], patches.shape[-1]), masks.shape[1]
    cover = _cover(masks, grid, patches)
    positions = _resized_positions(tower.positional_embedding, grid).to(patches)
    first = tower.class_embedding.to(patches) + positions[0]
    rest = patches.flatten(2).transpose(1, 2) + positions[1:]
    image = tower.ln_pre(torch.cat([first.expand(len(rest), 1, -1), rest], 1))
    tokens = torch.cat([image, image[:, :1].expand(-1, queries, -1)], 1)
    attended = tower.transformer(tokens, attn_mask=_vit_mask(cover, _heads(tower)))
    embedded = tower.ln_post(attended[:, -queries:])
    return embedded if tower.proj is None else embedded @ tower.proj


def _vit_mask(cover: torch.Tensor, heads: int) -> torch.Tensor:
    """(B x A, 1 + N + Q, 1 + N + Q), added to attention: the image's own tokens see one another, a mask's
    token sees itself and the positions that are covered.
    """
    count, queries, positions = cover.shape
    length = 1 + positions + queries
    mask = cover.new_zeros(count, length, length)
    mask[:, :, 1 + positions :] = -torch.inf
    mask[:, 1 + positions :, 0] = -torch.inf
    mask[:, 1 + positions :, 1 : 1 + positions] = cover.log()
    own = torch.arange(1 + positions, length, device=cover.device)
    mask[:, own, own] = 0
    return mask.repeat_interleave(heads, 0)


def _heads(tower: Any) -> int:
    return int(tower.transformer.resblocks[0].attn.num_heads)


def _resized_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(1 + N, D): the class token's position, and those of a square grid interpolated to another."""
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    square = positions[1:].T.reshape(1, -1, side, side).float()
    resized = functional.interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T.to(positions)])
