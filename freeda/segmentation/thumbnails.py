"""The small picture that is kept with a prototype."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["thumbnail"]

_FAINT = 90
"""Opacity, of 255, of what lies outside of the mask."""


def thumbnail(pixels: np.ndarray, mask: np.ndarray, side: int) -> bytes:
    """The whole (H, W, 3) uint8 picture as WebP, faint outside of an (H, W) mask, its longer side at most
    `side` pixels.
    """
    picture = Image.fromarray(np.dstack([pixels, np.where(mask, 255, _FAINT).astype(np.uint8)]), "RGBA")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
