"""One image's way from pixels to a label map, and the result."""

from __future__ import annotations

__all__ = ["FORMATS", "MAX_PIXELS"]

FORMATS = ("labels", "overlay", "npz", "coco")
"""What a result can be saved as, beside its JSON. Here, so that reading it imports no library."""
MAX_PIXELS = 100_000_000
"""Image files with more are refused unless more are allowed: a decompression bomb looks just like them, and
segmenting takes more than 30 bytes per pixel.
"""
