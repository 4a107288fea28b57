"""Plants and mushrooms, each in unit coordinates (see `pen.Pen`)."""

from __future__ import annotations

import math

from freeda.toyworld.drawing.pen import RGB, Look, Pen, shade

STALK: RGB = (70, 140, 60)


def tree(pen: Pen, look: Look) -> None:
    """A trunk under a crown of several balls of leaves."""
    leaf = look.color
    pen.polygon([(-0.13, 0.1), (0.13, 0.1), (0.2, 0.97), (-0.2, 0.97)], (115, 75, 45))
    for x, y, radius in ((-0.45, -0.1, 0.38), (0.45, -0.1, 0.38), (0, -0.5, 0.46), (0, 0, 0.4)):
        pen.ellipse(x, y, radius * look.vary(0.92, 1.08), radius, leaf)
    for x, y in ((-0.3, -0.45), (0.3, -0.2), (-0.4, 0.02)):
        pen.ellipse(x, y, 0.14, 0.11, shade(leaf, 1.25))


def flower(pen: Pen, look: Look) -> None:
    """Petals round a disc on a leafy stalk."""
    petals = int(look.vary(5, 8))
    pen.stroke([(0, -0.2), (look.vary(-0.1, 0.1), 0.96)], 0.13, STALK)
    pen.ellipse(0.28, 0.6, 0.3, 0.12, STALK, -28)
    pen.ellipse(-0.28, 0.72, 0.3, 0.12, STALK, 28)
    for i in range(petals):
        angle = 360 / petals * i
        x, y = math.cos(math.radians(angle)) * 0.4, math.sin(math.radians(angle)) * 0.4
        pen.ellipse(x, y - 0.4, 0.28, 0.2, look.color, angle)
    pen.ellipse(0, -0.4, 0.22, 0.22, look.accent)


def cactus(pen: Pen, look: Look) -> None:
    """A ribbed column with two raised arms in a clay pot."""
    skin = look.color
    left, right = look.vary(-0.35, -0.1), look.vary(-0.45, -0.2)
    pen.stroke([(0, 0.18), (-0.6, 0.18), (-0.6, left)], 0.24, skin)
    pen.stroke([(0, 0.0), (0.6, 0.0), (0.6, right)], 0.24, skin)
    pen.box(-0.24, -0.95, 0.24, 0.6, skin, 0.22)
    for x in (-0.1, 0.1):
        pen.stroke([(x, -0.75), (x, 0.5)], 0.045, shade(skin, 1.45))
    pen.polygon([(-0.44, 0.5), (0.44, 0.5), (0.34, 0.96), (-0.34, 0.96)], (195, 95, 55))


def mushroom(pen: Pen, look: Look) -> None:
    """A spotted cap on a pale stem."""
    cap, wide = look.color, look.vary(0.82, 0.95)
    pen.polygon([(-0.24, 0.0), (0.24, 0.0), (0.34, 0.94), (-0.34, 0.94)], (240, 228, 205))
    pen.polygon([(-0.16, 0.1), (0.24, 0.1), (0.24, 0.3)], (205, 190, 165))
    pen.sector(0, 0.14, wide, 180, 360, cap)
    pen.ellipse(0, 0.14, wide, 0.13, shade(cap, 0.7))
    for x, y, radius in ((-0.48, -0.22, 0.14), (0.05, -0.5, 0.16), (0.5, -0.16, 0.13)):
        pen.ellipse(x, y, radius, radius, (250, 245, 235))
