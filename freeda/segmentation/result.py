"""The result of segmenting one image: label map, scores, exports and drawings."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freeda.errors import ExplanationError, OutputError
from freeda.segmentation.evidence import Evidence

__all__ = ["BACKGROUND", "Foreground", "Segmentation", "class_colors", "ignore_index_for"]

BACKGROUND = "background"
_OVERLAY_SIDE = 1600
_LEGEND_SHARE = 0.002
"""Classes that cover less of the picture are left out of the legend."""


@dataclass(frozen=True)
class Foreground:
    """An image before the background is told from the rest.

    labels: (H, W) int32, the best class, counted from 1; scores: (H, W) float32, its score; rivals:
    (H, W) float32, the score of the best background concept, where there are any.
    """

    labels: np.ndarray
    scores: np.ndarray
    rivals: np.ndarray | None = None

    def margins(self) -> np.ndarray:
        """(H, W) float32: a pixel is background at every threshold that is not below this."""
        if self.rivals is None:
            return self.scores
        return np.where(self.rivals >= self.scores, -np.inf, self.scores).astype(np.float32)

    def decide(self, threshold: float, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) labels, 0 where `threshold` or a rival is no less than the best class, and the scores
        of what was chosen. Undecided pixels stay so.
        """
        floor = np.full_like(self.scores, threshold)
        if self.rivals is not None:
            floor = np.fmax(floor, self.rivals)
        lost = (self.scores <= floor) & (self.labels != ignore_index)
        return np.where(lost, 0, self.labels), np.where(lost, floor, self.scores)


@dataclass(frozen=True)
class Segmentation:
    """A segmented image.

    image: (H, W, 3) uint8 RGB; labels: (H, W) int32, index into `classes`, `ignore_index` where
    nothing was decided; scores: (H, W) float32, the score of the chosen class; paths: how many
    regions were scored in which way; explainer: what `explain` asks, where the method has one;
    foreground: what was known before the background was decided, where there is a background.
    """

    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]
    ignore_index: int = 255
    paths: Mapping[str, int] = field(default_factory=dict)
    explainer: Callable[[int, int], Evidence] | None = None
    foreground: Foreground | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the explainer, which holds the models."""
        return {**self.__dict__, "explainer": None}

    def __post_init__(self) -> None:
        shapes = {self.image.shape[:2], self.labels.shape, self.scores.shape}
        if len(shapes) != 1:
            raise ValueError(f"image, labels and scores differ in size: {sorted(shapes)}")

    @property
    def segments_info(self) -> list[dict[str, Any]]:
        """Per class present, largest first: id, label, area in pixels, share of the image, mean score."""
        counts = np.bincount(self.labels.ravel(), minlength=self.ignore_index + 1)
        totals = np.bincount(self.labels.ravel(), self.scores.ravel(), self.ignore_index + 1)
        present = [c for c in np.argsort(-counts[: len(self.classes)], kind="stable") if counts[c]]
        return [
            {
                "id": int(c),
                "label": self.classes[c],
                "area": int(counts[c]),
                "share": round(float(counts[c] / self.labels.size), 6),
                "score": round(float(totals[c] / counts[c]), 6),
            }
            for c in present
        ]

    def explain(self, x: int, y: int) -> Evidence:
        """Why pixel (x, y), column and row, got its class: region, scores, prototypes that voted.

        The models look at the image once more.
        Raises `ExplanationError` outside the image, or for a method that does not retrieve.
        """
        height, width = self.labels.shape
        if self.explainer is None:
            raise ExplanationError("this method retrieves no prototypes, so none voted; use method freeda")
        if not (0 <= x < width and 0 <= y < height):
            raise ExplanationError(f"pixel ({x}, {y}) lies outside the image of {width} x {height} pixels")
        return self.explainer(x, y)

    def inner_points(self) -> dict[str, tuple[int, int]]:
        """For every class found, the (x, y) deepest inside its largest piece, largest class first."""
        points = {}
        for item in self.segments_info:
            mask = np.pad((self.labels == item["id"]).astype(np.uint8), 1)
            depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            points[item["label"]] = (int(x), int(y))
        return points

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: where class `name` was found."""
        return np.asarray(self.labels == self.classes.index(name))

    def palette_image(self) -> Image.Image:
        """The label map as a PNG-ready picture: 8-bit with palette, 16-bit beyond 255 classes."""
        if self.ignore_index > 255:
            return Image.fromarray(self.labels.astype(np.uint16))
        picture = Image.fromarray(self.labels.astype(np.uint8), "P")
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self.classes)] = class_colors(self.classes)
        picture.putpalette(palette.tobytes())
        return picture

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The image under its coloured label map, borders drawn, with a legend of what is there."""
        image, labels = _shrink(self.image, self.labels)
        colors = np.vstack([class_colors(self.classes), [[0, 0, 0]]]).astype(np.float32)
        flat = np.where(labels == self.ignore_index, len(self.classes), labels)
        mixed = image * (1 - opacity) + colors[flat] * opacity
        mixed[_borders(labels)] = 255
        return _with_legend(Image.fromarray(mixed.round().astype(np.uint8)), self._legend())

    def _legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        colors = class_colors(self.classes)
        return [
            (f"{item['label']}  {item['share']:.0%}", tuple(int(v) for v in colors[item["id"]]))  # type: ignore[misc]
            for item in self.segments_info
            if item["share"] >= _LEGEND_SHARE
        ]

    def save(
        self, folder: str | Path, stem: str = "segmentation", formats: Sequence[str] = ("labels", "overlay")
    ) -> list[Path]:
        """Writes STEM.labels.png, STEM.overlay.png and STEM.json; returns the paths.

        formats: any of "labels", "overlay", "npz". Raises `OutputError`.
        """
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            return [*self._write(target, stem, formats), self._write_json(target / f"{stem}.json")]
        except OSError as error:
            raise OutputError(
                f"cannot write to '{target}': {error.strerror or error}; choose another --out"
            ) from error

    def _write(self, folder: Path, stem: str, formats: Sequence[str]) -> list[Path]:
        written = []
        if "labels" in formats:
            written.append(folder / f"{stem}.labels.png")
            self.palette_image().save(written[-1])
        if "overlay" in formats:
            written.append(folder / f"{stem}.overlay.png")
            self.overlay().save(written[-1])
        if "npz" in formats:
            written.append(folder / f"{stem}.npz")
            np.savez_compressed(
                written[-1], labels=self.labels, scores=self.scores, classes=np.array(self.classes)
            )
        return written

    def _write_json(self, path: Path) -> Path:
        height, width = self.labels.shape
        report = {
            "height": height,
            "width": width,
            "classes": list(self.classes),
            "ignore_index": self.ignore_index,
            "undecided": int((self.labels == self.ignore_index).sum()),
            "paths": dict(self.paths),
            "segments": self.segments_info,
        }
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def ignore_index_for(classes: int) -> int:
    """255, or 65535 where 255 would be a class."""
    return 255 if classes <= 255 else 65535


def class_colors(classes: Sequence[str]) -> np.ndarray:
    """(C, 3) uint8: distinct hues by the golden ratio; background is gray."""
    colors = []
    for number, name in enumerate(classes):
        hue = (number * 0.618034 + 0.02) % 1
        rgb = colorsys.hls_to_rgb(hue, (0.52, 0.4, 0.65)[number % 3], 0.85)
        colors.append((0.45, 0.45, 0.45) if name == BACKGROUND else rgb)
    return (np.array(colors).reshape(-1, 3) * 255).round().astype(np.uint8)


def _shrink(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture and labels at no more than the overlay's side, at least 256 where that is an enlargement."""
    height, width = labels.shape
    scale = min(1.0, _OVERLAY_SIDE / max(height, width))
    if max(height, width) < 256:
        scale = 256 / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(Image.fromarray(image).resize(size), np.float32), np.asarray(resized)


def _borders(labels: np.ndarray) -> np.ndarray:
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


def _with_legend(picture: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
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
