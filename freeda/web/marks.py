"""What a user draws on images of the page: a box or a stroke, with a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from freeda.errors import ConfigError
from freeda.segmentation.outlines import box_mask, stroke_mask

__all__ = ["DrawnMark", "drawn_marks"]

_FARTHEST = 1e6
_WIDEST = 1_000
_MOST_POINTS = 10_000
"""Of all strokes of a request; drawing them takes seconds."""
_SHAPES = "a `box` of four numbers, or a `stroke` of points with a `width`"


@dataclass(frozen=True)
class DrawnMark:
    """image: id of the one that it is drawn on. name: what it is.
    box: left, top, width, height in pixels; None for a stroke.
    stroke: its points, x and y in pixels, and `width`, in pixels.
    """

    image: str
    name: str
    box: tuple[float, ...] | None
    stroke: tuple[tuple[float, ...], ...] = ()
    width: float = 1.0

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool, of an image of that size."""
        if self.box is not None:
            return box_mask(self.box, size)
        return stroke_mask(self.stroke, self.width, size)


def drawn_marks(given: Any, most: int) -> tuple[DrawnMark, ...]:
    """Those that a request lists, as JSON. Raises `ConfigError` for more than `most`, or anything else."""
    if not isinstance(given, list):
        raise ConfigError("`marks` is no list")
    if len(given) > most:
        raise ConfigError(f"{len(given)} marks; the page takes {most} at most, so remove some")
    marks = tuple(_drawn(item) for item in given)
    if sum(len(mark.stroke) for mark in marks) > _MOST_POINTS:
        raise ConfigError(f"the strokes have more than {_MOST_POINTS:,} points together; remove some")
    return marks


def _drawn(item: Any) -> DrawnMark:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("image", "name")):
        raise ConfigError("a mark has an `image` and a `name`, as text")
    if not item["name"].strip():
        raise ConfigError("a mark has no name; say what is marked")
    if "box" in item:
        return DrawnMark(item["image"], item["name"], _numbers(item["box"], 4))
    points = item.get("stroke")
    if not isinstance(points, list) or not points:
        raise ConfigError(f"a mark has no shape; expected {_SHAPES}")
    (width,) = _numbers([item.get("width")], 1)
    if not 1 <= width <= _WIDEST:
        raise ConfigError(f"a stroke is {width:g} pixels wide; expected 1 to {_WIDEST:,}")
    stroke = tuple(_numbers(point, 2) for point in points)
    return DrawnMark(item["image"], item["name"], None, stroke, width)


def _numbers(given: Any, count: int) -> tuple[float, ...]:
    if not isinstance(given, list) or len(given) != count or not all(map(_is_number, given)):
        raise ConfigError(f"a mark has no shape; expected {_SHAPES}")
    return tuple(float(value) for value in given)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _FARTHEST  # which NaN is not
