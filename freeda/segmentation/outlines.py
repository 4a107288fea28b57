"""Masks of what annotations hold: boxes, polygons, strokes, run lengths.

A mask is (H, W) bool. A pixel belongs to an outline that holds its centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from freeda.errors import ConfigError

__all__ = ["box_mask", "coco_mask", "polygon_mask", "stroke_mask", "unpacked_runs"]

_SHIFT = 8
"""Bits of a coordinate that OpenCV reads as a fraction."""
_FARTHEST = 2**20
"""Pixels; with its fraction, a coordinate fits 32 bits."""
_WIDEST = 2**15
"""Pixels; OpenCV draws no wider lines."""


def box_mask(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """box: left, top, width, height, in pixels."""
    left, top, width, height = map(float, box)
    rows, columns = (np.arange(side) + 0.5 for side in size)
    down, across = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    return np.asarray(down[:, None] & across[None])


def polygon_mask(polygons: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """polygons: corners each, (n, 2) or (2n,), in pixels; the mask is what any of them covers."""
    mask = np.zeros(size, np.uint8)
    for corners in polygons:
        places = np.asarray(corners, float).reshape(-1, 2)
        if len(places) < 3 or not (np.abs(places) < _FARTHEST).all():
            raise ValueError("a polygon of fewer than three corners, or one far outside of the image")
        points = np.round((places - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(mask, [points], 1, lineType=cv2.LINE_8, shift=_SHIFT)
    return mask > 0


def stroke_mask(points: Sequence[Sequence[float]], width: float, size: tuple[int, int]) -> np.ndarray:
    """points: x and y each, in pixels, through which a round brush `width` pixels wide is led."""
    places = np.asarray(points, float)
    if not (np.abs(places) < _FARTHEST).all() or not 0.5 <= width < _WIDEST:
        raise ValueError("a stroke far outside of the image, or of no width")
    corners = np.round((np.concatenate([places, places[-1:]]) - 0.5) * 2**_SHIFT).astype(np.int32)
    mask = np.zeros(size, np.uint8)
    cv2.polylines(mask, [corners], False, 1, round(width), cv2.LINE_8, _SHIFT)
    return mask > 0


def coco_mask(outline: Sequence[Any] | Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """outline: a `segmentation` of COCO: polygons, or a run length, compressed or not.

    Raises `ConfigError` for a compressed one without pycocotools.
    """
    if not isinstance(outline, Mapping):
        return polygon_mask(outline, size)
    if tuple(outline["size"]) != size:
        raise ValueError(f"a run length of {outline['size']} on an image of {list(size)} (height, width)")
    if isinstance(outline["counts"], str):
        return np.asarray(_coco_tools().decode(outline)) > 0
    height, width = size
    if min(outline["counts"], default=0) < 0 or sum(outline["counts"]) != height * width:
        raise ValueError("a run length of another number of pixels")
    values = np.arange(len(outline["counts"])) % 2 == 1
    return np.repeat(values, outline["counts"]).reshape(width, height).T


def _coco_tools() -> Any:
    try:
        import pycocotools.mask
    except ImportError as error:
        raise ConfigError(
            "compressed run lengths need pycocotools, which is not installed: pip install 'freeda[coco]'"
        ) from error
    return pycocotools.mask


def unpacked_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask of Label Studio's brush labels (the format of thi.ng/rle-pack): an RGBA picture whose alpha is
    above 127 where the brush was. Raises `ValueError` for a damaged one.
    """
    bits = _Bits(runs)
    count, word = bits.take(32), bits.take(5) + 1
    widths = [bits.take(4) + 1 for _ in range(4)]
    if count != size[0] * size[1] * 4:
        raise ValueError(f"a brush of {count // 4:,} pixels on an image of {size[0] * size[1]:,}")
    values = np.zeros(count, np.uint8)
    filled = 0
    while filled < count:
        repeated = bits.take(1)
        length = bits.take(widths[bits.take(2)]) + 1
        if filled + length > count:
            raise ValueError("a brush that ends beyond its image")
        if repeated:
            values[filled : filled + length] = bits.take(word)
        else:
            values[filled : filled + length] = [bits.take(word) for _ in range(length)]
        filled += length
    return np.asarray(values.reshape(*size, 4)[..., 3] > 127)


class _Bits:
    """Reads numbers of any width from bytes."""

    def __init__(self, content: Sequence[int]) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in content)
        self._at = 0

    def take(self, width: int) -> int:
        part = self._bits[self._at : self._at + width]
        if len(part) < width:
            raise ValueError("a brush that is cut off")
        self._at += width
        return int(part, 2)
