"""One image's way from pixels to a label map, and the result."""

from __future__ import annotations

__all__ = ["FORMATS"]

FORMATS = ("labels", "overlay", "npz")
"""What a result can be saved as, beside its JSON. Here, so that reading it imports no library."""
