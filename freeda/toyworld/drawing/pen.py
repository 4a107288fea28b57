"""A pen that draws smooth shapes in unit coordinates, and the look that makes two of a kind differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SUPERSAMPLING = 3

BLACK: RGB = (30, 30, 34)
WHITE: RGB = (245, 245, 240)


def shade(color: RGB, factor: float) -> RGB:
    """`color` darkened (factor < 1) or lightened towards white (factor > 1)."""
    if factor <= 1:
        return _rgb([channel * factor for channel in color])
    return _rgb([channel + (255 - channel) * (factor - 1) for channel in color])


def _rgb(channels: Sequence[float]) -> RGB:
    red, green, blue = (int(np.clip(round(channel), 0, 255)) for channel in channels)
    return red, green, blue


@dataclass(frozen=True)
class Look:
    """What distinguishes one instance of a kind from the next: its colours and a source of proportions."""

    color: RGB
    accent: RGB
    rng: np.random.Generator

    def vary(self, low: float, high: float) -> float:
        """A proportion drawn uniformly from [low, high]."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


class Pen:
    """Draws on a transparent square; (-1, -1) is its top left corner and (1, 1) its bottom right.

    Every shape becomes a polygon that is turned, stretched and mirrored as a whole, so that
    a drawing function needs to know one pose only.
    """

    def __init__(
        self, side: int, *, angle: float = 0.0, stretch: float = 1.0, mirrored: bool = False
    ) -> None:
        self._canvas = Image.new("RGBA", (side * SUPERSAMPLING,) * 2)
        self._draw = ImageDraw.Draw(self._canvas)
        self._side = side
        cosine, sine = math.cos(angle), math.sin(angle)
        flip = -1.0 if mirrored else 1.0
        shrink = 0.98 / max(stretch, 1 / stretch) / (abs(cosine) + abs(sine)) ** 0.5
        scale = np.diag([flip * stretch * shrink, shrink / stretch])
        self._matrix = np.array([[cosine, -sine], [sine, cosine]]) @ scale

    def polygon(self, points: Points, color: RGB) -> None:
        self._draw.polygon(self._to_pixels(points), fill=(*color, 255))

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: RGB, turn: float = 0.0) -> None:
        """A filled ellipse; `turn` in degrees, clockwise on the screen."""
        self.polygon(_arc(x, y, rx, ry, 0.0, 360.0, turn), color)

    def sector(self, x: float, y: float, radius: float, start: float, end: float, color: RGB) -> None:
        """A filled slice of a disc between two angles in degrees (0 = right, 90 = down)."""
        self.polygon([(x, y), *_arc(x, y, radius, radius, start, end)], color)

    def box(
        self, left: float, top: float, right: float, bottom: float, color: RGB, radius: float = 0.0
    ) -> None:
        if radius <= 0:
            self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)
            return
        corners = ((right, bottom, 0), (left, bottom, 90), (left, top, 180), (right, top, 270))
        points: list[tuple[float, float]] = []
        for x, y, start in corners:
            inner_x = x - math.copysign(radius, x - (left + right) / 2)
            inner_y = y - math.copysign(radius, y - (top + bottom) / 2)
            points += _arc(inner_x, inner_y, radius, radius, start, start + 90)
        self.polygon(points, color)

    def stroke(self, points: Points, width: float, color: RGB) -> None:
        """A thick line through `points` with round ends and joints."""
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
            self.polygon(
                [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)],
                color,
            )
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, color)

    def arc(
        self, x: float, y: float, radius: float, start: float, end: float, width: float, color: RGB
    ) -> None:
        """A thick circular line between two angles in degrees."""
        self.stroke(_arc(x, y, radius, radius, start, end), width, color)

    def eye(self, x: float, y: float, radius: float) -> None:
        self.ellipse(x, y, radius, radius, WHITE)
        self.ellipse(x + radius * 0.2, y, radius * 0.6, radius * 0.6, BLACK)

    def picture(self) -> np.ndarray:
        """(side, side, 4) uint8 RGBA, antialiased."""
        return np.asarray(self._canvas.reduce(SUPERSAMPLING))

    def _to_pixels(self, points: Points) -> list[tuple[float, float]]:
        pixels = (np.asarray(points) @ self._matrix.T + 1) * (self._side * SUPERSAMPLING / 2)
        return [(float(x), float(y)) for x, y in pixels]


def _arc(
    x: float, y: float, rx: float, ry: float, start: float, end: float, turn: float = 0.0
) -> list[tuple[float, float]]:
    angles = np.radians(np.linspace(start, end, max(6, int(abs(end - start) / 12))))
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    across, down = rx * np.cos(angles), ry * np.sin(angles)
    return list(zip(x + across * cosine - down * sine, y + across * sine + down * cosine, strict=True))
