"""Dense features of a timm ViT or XCiT and the global image embedding of CLIP.

Shapes: `B` images, `H W` pixels, `h w` token grid, `D` width of the backbone, `K` of CLIP.
Images are float32 RGB in [0, 1] throughout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from timm.models import is_model_in_modules
from torch.nn import functional

from freeda.models.loading import fingerprint, is_folder, load_first, prepare

__all__ = ["Backbone", "ImageTower", "embed_images", "embed_patches", "load_backbone"]


@dataclass(frozen=True)
class Backbone:
    """A self-supervised ViT or XCiT that gives one feature a patch."""

    network: Any
    patch_size: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype

    def fingerprint(self) -> str:
        return fingerprint(self.network.state_dict())

    @torch.inference_mode()
    def dense_features(self, images: torch.Tensor, size: int) -> torch.Tensor:
        """(B, D, h, w) float32: the last layer's patch tokens after the final norm.

        `images` is (B, 3, H, W); the shorter side is resized to `size` (rounded to whole
        patches), the aspect kept. Class and register tokens are dropped.
        """
        target = _grid_size(images.shape[-2], images.shape[-1], size, self.patch_size)
        resized = _resize(images, target)
        inputs = _standardise(resized, self.mean, self.std).to(self.device, self.dtype)
        (features,) = self.network.forward_intermediates(
            inputs, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return features.float()


def load_backbone(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> Backbone:
    """Loads a timm ViT (DINO, DINOv2, DINOv3) or XCiT by name or from a folder, for any image size."""
    return load_first("dense backbone", ids, lambda model_id: _load_backbone(model_id, device, dtype))


def _load_backbone(model_id: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    name = f"local-dir:{model_id}" if is_folder(model_id) else model_id
    sizes = {} if _takes_any_size(model_id) else {"dynamic_img_size": True}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **sizes)
    except TypeError as error:
        raise ValueError(f"no ViT or XCiT, which take any image size: {error}") from error
    patch = network.patch_embed.patch_size
    statistics = timm.data.resolve_model_data_config(network)
    return Backbone(
        network=prepare(network, device, dtype),
        patch_size=patch if isinstance(patch, int) else patch[0],
        width=network.num_features,
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
        device=device,
        dtype=dtype,
    )


def _takes_any_size(model_id: str) -> bool:
    """Whether a model needs no telling that images come in any size: XCiT computes its positions."""
    if not is_folder(model_id):
        return is_model_in_modules(model_id.rpartition("/")[2].split(".")[0], ["xcit"])
    config = json.loads((Path(model_id) / "config.json").read_text(encoding="utf-8"))
    return is_model_in_modules(config.get("architecture", ""), ["xcit"])


class ImageTower(Protocol):
    """What the global embedding needs of a CLIP model."""

    @property
    def network(self) -> Any: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@torch.inference_mode()
def embed_images(clip: ImageTower, images: torch.Tensor) -> torch.Tensor:
    """(B, K) float32 unit vectors; the images are squashed to CLIP's input size (FreeDA's code)."""
    inputs = _standardise(_resize(images, clip.image_size), clip.mean, clip.std)
    embedded = clip.network.encode_image(inputs.to(clip.device, clip.dtype))
    return functional.normalize(embedded.float(), dim=-1)


@torch.inference_mode()
def embed_patches(clip: ImageTower, images: torch.Tensor) -> torch.Tensor:
    """(B, K, h, w) float32 unit vectors: CLIP's own patch features in the joint space.

    A ViT's tokens pass the image tower's final norm and projection, as its class token does; a
    ResNet's positions pass the values and the projection of its pooling (MaskCLIP, Zhou et al. 2022).
    """
    inputs = _standardise(_resize(images, clip.image_size), clip.mean, clip.std)
    tower = clip.network.visual
    (tokens,) = tower.forward_intermediates(
        inputs.to(clip.device, clip.dtype),
        indices=1,
        normalize_intermediates=True,
        intermediates_only=True,
    )["image_intermediates"]
    return functional.normalize(_project(tower, tokens).float(), dim=1)


def _project(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    if not isinstance(tower, ModifiedResNet):
        return torch.einsum("bdhw,dk->bkhw", tokens, tower.proj)
    values = tower.attnpool.v_proj(tokens.movedim(1, -1))
    return tower.attnpool.c_proj(values).movedim(-1, 1)


def _grid_size(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    scale = size / min(height, width)
    return tuple(max(1, round(side * scale / patch)) * patch for side in (height, width))  # type: ignore[return-value]


def _resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    resized = functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def _standardise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    mean_, std_ = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return (images - mean_) / std_
