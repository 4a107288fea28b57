"""Georeferenced rasters and videos, which are read and written piece by piece."""

from __future__ import annotations

__all__ = ["GEOTIFF", "VIDEO_ENDINGS"]

GEOTIFF = "geotiff"
"""The format in which rasters are read and written. Here, so that reading it imports no library."""
VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})
"""Endings, in lower case, by which a file is taken for a video."""
