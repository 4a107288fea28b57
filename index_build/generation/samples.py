"""A sample image per shard with its masks, for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["Sample", "draw_sample"]

_SIDE = 128
_DIMMED = 0.25


@dataclass(frozen=True)
class Sample:
    """A generated picture with the mask of each noun.

    strip: WebP: the image, then per noun the image with everything outside its mask dimmed.
    """

    caption: str
    nouns: tuple[str, ...]
    strip: bytes


def draw_sample(
    caption: str, pixels: np.ndarray, nouns: Sequence[str], masks: Sequence[np.ndarray]
) -> Sample:
    """pixels: (H, W, 3) uint8 RGB; masks: (H, W) bool, one per noun."""
    dimmed = [np.where(mask[..., None], pixels, pixels * _DIMMED).astype(np.uint8) for mask in masks]
    panels = [_small(panel) for panel in (pixels, *dimmed)]
    strip = Image.new("RGB", (sum(panel.width for panel in panels), panels[0].height))
    for number, panel in enumerate(panels):
        strip.paste(panel, (number * panel.width, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=80)
    return Sample(caption, tuple(nouns), buffer.getvalue())


def _small(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture
