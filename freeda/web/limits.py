"""What the page's server takes, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server.

    upload_bytes, upload_pixels: of an image file.
    classes: per request, synonyms not counted.
    marks: drawn on images, per request.
    waiting: requests for the models that may wait for their turn; more are told to come again.
    images_bytes, results_bytes: of decoded images and of results that are kept.
    segmenters: loaded methods with their models that are kept.
    """

    upload_bytes: int = 32 * _MIB
    upload_pixels: int = 16_000_000
    classes: int = 500
    marks: int = 100
    waiting: int = 16
    images_bytes: int = 256 * _MIB
    results_bytes: int = 256 * _MIB
    segmenters: int = 3
