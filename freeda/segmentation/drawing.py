"""Label maps as pictures: colours, palette, overlay with legend."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freeda.class_names import BACKGROUND

__all__ = ["class_colors", "draw_overlay", "palette_image"]

_OVERLAY_SIDE = 1600
_SMALLEST_SIDE = 256
_LEGEND_SHARE = 0.002
"""Classes that cover less of the image are left out of the legend."""
Legend = list[tuple[str, tuple[int, int, int]]]


def class_colors(classes: Sequence[str]) -> np.ndarray:
    """(C, 3) uint8 RGB: distinct hues by the golden ratio; the background is gray."""
    colors = []
    for number, name in enumerate(classes):
        hue = (number * 0.618034 + 0.02) % 1
        rgb = colorsys.hls_to_rgb(hue, (0.52, 0.4, 0.65)[number % 3], 0.85)
        colors.append((0.45, 0.45, 0.45) if name == BACKGROUND else rgb)
    return (np.array(colors).reshape(-1, 3) * 255).round().astype(np.uint8)


def palette_image(labels: np.ndarray, classes: Sequence[str], ignore_index: int) -> Image.Image:
    """(H, W) labels as a picture ready for PNG: 8 bits with a palette, 16 bits for more than 255 classes."""
    if ignore_index > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = class_colors(classes)
    picture.putpalette(palette.tobytes())
    return picture


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    segments: Sequence[Mapping[str, Any]],
    opacity: float,
) -> Image.Image:
    """An (H, W, 3) image under its coloured (H, W) labels, with white borders and a legend of the
    segments.
    """
    small, small_labels = _resized(image, labels)
    colors = np.vstack([class_colors(classes), [[0, 0, 0]]]).astype(np.float32)
    flat = np.minimum(small_labels, len(classes))  # undecided pixels are black
    mixed = small * (1 - opacity) + colors[flat] * opacity
    mixed[_borders(small_labels)] = 255
    return _with_legend(Image.fromarray(mixed.round().astype(np.uint8)), _legend(classes, segments))


def _legend(classes: Sequence[str], segments: Sequence[Mapping[str, Any]]) -> Legend:
    colors = class_colors(classes).tolist()
    return [
        (f"{item['label']}  {item['share']:.0%}", tuple(colors[item["id"]]))
        for item in segments
        if item["share"] >= _LEGEND_SHARE
    ]


def _resized(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels with the longer side between 256 and 1,600 pixels, the overlay's limits."""
    height, width = labels.shape
    scale = min(1.0, _OVERLAY_SIDE / max(height, width))
    if max(height, width) < _SMALLEST_SIDE:
        scale = _SMALLEST_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(Image.fromarray(image).resize(size), np.float32), np.asarray(resized)


def _borders(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


def _with_legend(picture: Image.Image, entries: Legend) -> Image.Image:
    """The picture with a column of coloured names on its right."""
    size = max(12, min(22, picture.height // 16))
    font = ImageFont.load_default(size)
    wide = max([font.getlength(text) for text, _ in entries] or [0])
    line = round(size * 1.6)
    height = max(picture.height, line * len(entries) + size)
    sheet = Image.new("RGB", (picture.width + round(wide) + 3 * size, height), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for row, (text, color) in enumerate(entries):
        left, top = picture.width + size // 2, size // 2 + row * line
        draw.rectangle((left, top, left + size, top + size), fill=color)
        draw.text((left + round(size * 1.5), top + size // 2), text, fill="black", font=font, anchor="lm")
    return sheet
