"""Class-agnostic masks by a model of transformers: SAM and its like, or one of universal segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from freeda.errors import ConfigError
from freeda.models.loading import load_first, prepare, require_weights, weights_fingerprint

__all__ = ["MaskProposals", "load_mask_proposals"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class MaskProposals:
    """find: (N, H, W) bool masks of an (H, W, 3) uint8 RGB image. weights: a digest of them."""

    find: Callable[[np.ndarray], np.ndarray]
    weights: str

    def fingerprint(self) -> str:
        return self.weights

    def __call__(self, window: np.ndarray) -> np.ndarray:
        """(N, h, w) bool masks of an (h, w, 3) float window in [0, 1]; they may overlap and leave gaps."""
        return self.find((np.clip(window, 0, 1) * 255).round().astype(np.uint8))


def load_mask_proposals(
    ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32, *, points: int = 32
) -> MaskProposals:
    """Loads the first available of some models.

    points: along a side of the grid at which SAM and its like are asked; the others need none.
    Raises `ModelNotFoundError`, also for a model of another kind.
    """
    return load_first("regions", ids, lambda model_id: _load(model_id, device, dtype, points))


def _load(model_id: str, device: torch.device, dtype: torch.dtype, points: int) -> MaskProposals:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    )

    kind = AutoConfig.from_pretrained(model_id).model_type
    require_weights(model_id, *_WEIGHTS)
    if kind in MODEL_FOR_MASK_GENERATION_MAPPING_NAMES:
        return _by_points(model_id, device, dtype, points)
    if kind in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES:
        return _by_queries(model_id, device, dtype)
    raise ConfigError(
        f"'{model_id}' is a {kind}, which proposes no masks; expected a model of transformers for mask "
        f"generation (SAM, SAM 2) or for universal segmentation (EoMT, Mask2Former)"
    )


def _by_points(model_id: str, device: torch.device, dtype: torch.dtype, points: int) -> MaskProposals:
    """A model that is asked for a mask at each point of a grid."""
    from transformers import pipeline

    generate = pipeline(
        "mask-generation",
        model=model_id,
        device=device,
        dtype=dtype,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    prepare(generate.model, device, dtype)

    def find(image: np.ndarray) -> np.ndarray:
        found = generate(Image.fromarray(image), points_per_crop=points, points_per_batch=_POINTS_AT_ONCE)
        masks = [np.asarray(mask, bool) for mask in found["masks"]]
        return np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)

    return MaskProposals(find, weights_fingerprint(generate.model.state_dict()))


def _by_queries(model_id: str, device: torch.device, dtype: torch.dtype) -> MaskProposals:
    """A model whose queries are masks with classes: each pixel's most probable one, whatever its class."""
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    network: Any = AutoModelForUniversalSegmentation.from_pretrained(model_id, use_safetensors=True)
    weights = weights_fingerprint(network.state_dict())
    processor: Any = AutoImageProcessor.from_pretrained(model_id)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    side = _side(network.config, processor)
    network = prepare(network, device, dtype)

    @torch.inference_mode()
    def find(image: np.ndarray) -> np.ndarray:
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        resized = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        answer = network(pixel_values=((resized - mean) / std).to(device, dtype))
        thing = 1 - answer.class_queries_logits[0].float().softmax(-1)[:, -1]  # the last is "no object"
        maps = functional.interpolate(
            answer.masks_queries_logits.float(), image.shape[:2], mode="bilinear", align_corners=False
        )[0].sigmoid()
        best = (thing[:, None, None] * maps).argmax(0)
        numbers = torch.arange(len(maps), device=best.device)[:, None, None]
        held = ((best == numbers) & (maps > 0.5)).cpu().numpy()
        return held[held.any((1, 2))]

    return MaskProposals(find, weights)


def _side(config: Any, processor: Any) -> int:
    """Pixels of the square that the model was made for."""
    size = getattr(config, "image_size", None) or processor.size.get("height") or max(processor.size.values())
    return int(size if isinstance(size, int) else max(size))
