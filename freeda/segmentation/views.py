"""What a training step sees of an annotated image: a square of it, at a random scale, mirrored or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from freeda.presets.settings import is_number, require
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage

__all__ = ["random_view", "require_jitter"]


def require_jitter(value: Any) -> tuple[float, float]:
    """A range of scales; raises `ConfigError` for what is none."""
    listed = isinstance(value, list | tuple) and len(value) == 2
    rising = listed and all(is_number(n, above=0) for n in value) and value[0] <= value[1]
    require(rising, "jitter", value, "two numbers above 0, such as [0.5, 2.0]")
    return float(value[0]), float(value[1])


def random_view(
    item: AnnotatedImage, side: int, jitter: tuple[float, float], rng: np.random.Generator
) -> AnnotatedImage:
    """A view of `side` x `side` pixels (large-scale jittering, Ghiasi et al. 2021).

    jitter: range of the scale. At 1, the image's longer side fills the view. What lies outside of the image
        is black and unmarked.
    """
    mirrored = rng.random() < 0.5
    image, segments = item.image, item.segments
    if mirrored:
        image, segments = image[:, ::-1], segments[:, ::-1]
    scale = side / max(segments.shape) * rng.uniform(*jitter)
    height, width = (max(1, round(length * scale)) for length in segments.shape)
    if (height, width) != segments.shape:
        smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=smooth)
        segments = cv2.resize(
            np.ascontiguousarray(segments), (width, height), interpolation=cv2.INTER_NEAREST
        )
    top, left = (int(rng.integers(0, max(length - side, 0) + 1)) for length in (height, width))
    image, segments = (part[top : top + side, left : left + side] for part in (image, segments))
    padded = np.zeros((side, side, 3), np.uint8)
    marked = np.full((side, side), UNMARKED, np.int32)
    padded[: image.shape[0], : image.shape[1]] = image
    marked[: segments.shape[0], : segments.shape[1]] = segments
    return replace(item, image=padded, segments=marked)
