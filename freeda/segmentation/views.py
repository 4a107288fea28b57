"""What a training step sees of an annotated image: a square of it, at a random scale, mirrored or not."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from freeda.segmentation.annotations import UNMARKED, AnnotatedImage

__all__ = ["random_view"]


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
