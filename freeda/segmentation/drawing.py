"""Results as pictures: label maps with a palette, overlays with names and a legend."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freeda.segmentation.result import Segmentation

__all__ = ["draw_labels", "draw_overlay", "font", "outline"]

_LONGEST, _SHORTEST = 1600, 256
"""Limits of an overlay's longer side in pixels."""
_LEGEND_SHARE = 0.002
"""Classes that cover less of the image are left out of the legend."""
_SMALLEST_TEXT = 10
_Color = tuple[int, int, int]


def draw_labels(result: Segmentation) -> Image.Image:
    """The label map as a picture ready for PNG: 8 bits with a palette, 16 bits for more than 255 classes."""
    if result.ignore_index > 255:
        return Image.fromarray(result.labels.astype(np.uint16))
    picture = Image.fromarray(result.labels.astype(np.uint8), "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(result.classes)] = result.colors
    picture.putpalette(palette.tobytes())
    return picture


def draw_overlay(
    result: Segmentation,
    opacity: float = 0.5,
    *,
    colors: np.ndarray | None = None,
    legend: bool = True,
) -> Image.Image:
    """The image under its coloured label map, with white borders, names where they fit, and a legend.

    opacity: of the colours, 0 .. 1.
    colors: (C, 3) uint8 RGB; None for the result's own.
    legend: whether a column of names stands on the right.
    """
    chosen = result.colors if colors is None else colors
    image, labels = _resized(result.image, result.labels)
    shown = np.vstack([chosen, [[0, 0, 0]]]).astype(np.float32)
    flat = np.minimum(labels, len(result.classes))  # undecided pixels are black
    mixed = image * (1 - opacity) + shown[flat] * opacity
    edges = _borders(labels)
    if result.segment_source is not None:
        edges |= _between_things(result, _resized(result.image, result.segment_map)[1])
    mixed[edges] = 255
    picture = Image.fromarray(mixed.round().astype(np.uint8))
    _write_names(picture, labels, result)
    return _with_legend(picture, result, chosen) if legend else picture


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own, so that pictures look the same everywhere."""
    return ImageFont.load_default(size)


def outline(region: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels on both sides of an (H, W) region's border."""
    edge = np.zeros(region.shape, bool)
    edge[1:] |= region[1:] != region[:-1]
    edge[:-1] |= region[1:] != region[:-1]
    edge[:, 1:] |= region[:, 1:] != region[:, :-1]
    edge[:, :-1] |= region[:, 1:] != region[:, :-1]
    return edge


def _resized(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels with the longer side between `_SHORTEST` and `_LONGEST`."""
    height, width = labels.shape
    longer = max(height, width)
    scale = min(max(longer, _SHORTEST), _LONGEST) / longer
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(Image.fromarray(image).resize(size), np.float32), np.asarray(resized)


def _between_things(result: Segmentation, ids: np.ndarray) -> np.ndarray:
    """(H, W) bool: borders between two segments of one class, which labels do not show."""
    edge = np.zeros(ids.shape, bool)
    for label in {item.label for item in result.segments}:
        own = np.isin(ids, [item.id for item in result.segments if item.label == label])
        inside = _borders(np.where(own, ids, 0)) & own
        inside &= ~_borders(own.astype(np.int32))
        edge |= inside
    return edge


def _borders(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


def _text_size(picture: Image.Image) -> int:
    return max(12, min(22, picture.height // 16))


def _write_names(picture: Image.Image, labels: np.ndarray, result: Segmentation) -> None:
    """Each class's name deepest inside its largest piece, in the largest size that stays inside."""
    scale = picture.width / result.labels.shape[1]
    draw = ImageDraw.Draw(picture)
    numbers = {name: number for number, name in enumerate(result.classes)}
    for name, (x, y) in result.inner_points().items():
        middle = (round((x + 0.5) * scale), round((y + 0.5) * scale))
        inside = labels == numbers[name]
        for size in range(_text_size(picture), _SMALLEST_TEXT - 1, -1):
            box = [round(edge) for edge in draw.textbbox(middle, name, font=font(size), anchor="mm")]
            if _contains(inside, box):
                halo = max(1, size // 8)
                draw.text(
                    middle, name, "white", font(size), anchor="mm", stroke_width=halo, stroke_fill="black"
                )
                break


def _contains(inside: np.ndarray, box: list[int]) -> bool:
    left, top, right, bottom = box
    if min(left, top) < 0 or right > inside.shape[1] or bottom > inside.shape[0]:
        return False
    return bool(inside[top:bottom, left:right].all())


def _with_legend(picture: Image.Image, result: Segmentation, colors: np.ndarray) -> Image.Image:
    """The picture with a column of coloured names on its right."""
    entries: list[tuple[str, _Color]] = [
        (f"{item['label']}  {item['share']:.0%}", tuple(colors[item["id"]].tolist()))
        for item in result.segments_info
        if item["share"] >= _LEGEND_SHARE
    ]
    size = _text_size(picture)
    wide = max([font(size).getlength(text) for text, _ in entries] or [0])
    line = round(size * 1.6)
    height = max(picture.height, line * len(entries) + size)
    sheet = Image.new("RGB", (picture.width + round(wide) + 3 * size, height), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for row, (text, color) in enumerate(entries):
        left, top = picture.width + size // 2, size // 2 + row * line
        draw.rectangle((left, top, left + size, top + size), fill=color)
        place = (left + round(size * 1.5), top + size // 2)
        draw.text(place, text, fill="black", font=font(size), anchor="lm")
    return sheet
