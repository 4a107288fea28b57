"""One image's way from pixels to a label map, and the result."""

from __future__ import annotations

__all__ = ["FORMATS", "MAX_PIXELS", "SEGMENT_FORMATS"]

FORMATS = ("labels", "overlay", "npz", "scores", "coco", "panoptic", "labelstudio")
"""What a result can be saved as, beside its JSON. Here, so that reading it imports no library."""
SEGMENT_FORMATS = ("coco", "panoptic", "labelstudio")
"""Those that list segments: one per class, or one per connected piece."""
MAX_PIXELS = 100_000_000
"""Image files with more are refused unless more are allowed: a decompression bomb looks just like them, and
segmenting takes more than 30 bytes per pixel.
"""
