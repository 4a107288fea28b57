"""Dense features of a self-supervised ViT or XCiT, through timm.

Shapes: `B` images, `H W` pixels, `h w` token grid, `D` width. Images are float32 RGB in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules

from freeda.models.image_input import Interpolation, grid_size, resize, standardise
from freeda.models.loading import is_folder, load_first, prepare, require_weights, weights_fingerprint

__all__ = ["Backbone", "load_backbone"]


@dataclass(frozen=True)
class Backbone:
    """A self-supervised ViT or XCiT, which gives one feature per patch."""

    network: Any
    patch_size: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype
    weights: str

    def fingerprint(self) -> str:
        """A digest of the weights as they were loaded, whatever they were cast to."""
        return self.weights

    @torch.inference_mode()
    def dense_features(
        self, images: torch.Tensor, size: int, interpolation: Interpolation = "antialiased"
    ) -> torch.Tensor:
        """(B, D, h, w) float32: the last layer's patch tokens after the final norm.

        images: (B, 3, H, W); their shorter side is resized to `size` pixels, rounded to whole patches, the
        aspect kept. Class and register tokens are dropped.
        """
        target = grid_size((images.shape[-2], images.shape[-1]), size, self.patch_size)
        resized = resize(images, target, interpolation)
        inputs = standardise(resized, self.mean, self.std).to(self.device, self.dtype)
        (features,) = self.network.forward_intermediates(
            inputs, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return features.float()


def load_backbone(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> Backbone:
    """Loads a timm ViT (DINO, DINOv2, DINOv3) or XCiT by name or from a folder, for any image size."""
    return load_first("dense backbone", ids, lambda model_id: _load_backbone(model_id, device, dtype))


def _load_backbone(model_id: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    require_weights(model_id, "model.safetensors")
    name = f"local-dir:{model_id}" if is_folder(model_id) else model_id
    sizes = {} if _takes_any_size(model_id) else {"dynamic_img_size": True}
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0, **sizes)
    except TypeError as error:
        raise ValueError(f"no ViT or XCiT, which take any image size: {error}") from error
    patch = network.patch_embed.patch_size
    statistics = timm.data.resolve_model_data_config(network)
    weights = weights_fingerprint(network.state_dict())
    return Backbone(
        network=prepare(network, device, dtype),
        patch_size=patch if isinstance(patch, int) else patch[0],
        width=network.num_features,
        mean=tuple(statistics["mean"]),
        std=tuple(statistics["std"]),
        device=device,
        dtype=dtype,
        weights=weights,
    )


def _takes_any_size(model_id: str) -> bool:
    """Whether a model needs no telling that images come in any size: XCiT computes its positions."""
    if not is_folder(model_id):
        return is_model_in_modules(model_id.rpartition("/")[2].split(".")[0], ["xcit"])
    config = json.loads((Path(model_id) / "config.json").read_text(encoding="utf-8"))
    return is_model_in_modules(config.get("architecture", ""), ["xcit"])
