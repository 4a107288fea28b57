"""Food, each in unit coordinates (see `pen.Pen`)."""

from __future__ import annotations

import math

from freeda.toyworld.drawing.pen import Look, Pen, shade


def apple(pen: Pen, look: Look) -> None:
    skin = look.color
    pen.stroke([(0.0, -0.4), (look.vary(0.0, 0.14), -0.88)], 0.11, (110, 70, 40))
    pen.ellipse(0.32, -0.72, 0.28, 0.13, (90, 170, 60), -24)
    for side in (-1, 1):
        pen.ellipse(side * 0.32, 0.05, 0.5, look.vary(0.54, 0.62), skin, side * -8)
        pen.ellipse(side * 0.26, 0.5, 0.34, 0.4, skin)
    pen.ellipse(0, 0.2, 0.4, 0.5, skin)
    pen.ellipse(-0.42, -0.12, 0.12, 0.22, shade(skin, 1.5), 20)


def banana(pen: Pen, look: Look) -> None:
    skin, bend = look.color, look.vary(0.6, 0.74)
    outer = [(-0.9, -0.42), (-0.72, 0.1), (-0.36, bend * 0.75), (0.1, bend), (0.56, bend * 0.72)]
    inner = [(0.9, -0.1), (0.78, -0.28), (0.42, 0.08), (0.0, 0.12), (-0.4, -0.1), (-0.7, -0.56)]
    pen.polygon(outer + inner, skin)
    pen.stroke([(-0.62, -0.25), (-0.3, 0.3), (0.1, 0.5), (0.6, 0.32)], 0.07, shade(skin, 0.78))
    pen.stroke([(-0.82, -0.5), (-0.9, -0.78)], 0.16, (120, 90, 40))
    pen.ellipse(0.86, -0.2, 0.11, 0.11, (110, 80, 40))


def pizza(pen: Pen, look: Look) -> None:
    """A slice: crust, cheese, rounds of salami."""
    wide = look.vary(0.66, 0.84)
    pen.polygon([(-wide, -0.55), (wide, -0.55), (0, 0.96)], look.color)
    pen.box(-wide - 0.1, -0.84, wide + 0.1, -0.48, (190, 120, 55), 0.17)
    for x, y, radius in ((-0.32, -0.22, 0.19), (0.3, -0.14, 0.18), (0.02, 0.3, 0.17)):
        pen.ellipse(x, y, radius, radius, (200, 50, 40))
        pen.ellipse(x - 0.04, y - 0.04, radius * 0.5, radius * 0.5, (225, 90, 70))


def hot_dog(pen: Pen, look: Look) -> None:
    """A sausage in a bun under a wave of mustard."""
    bun, sausage = (225, 165, 90), (175, 70, 45)
    pen.box(-0.8, -0.02, 0.8, 0.56, bun, 0.28)
    pen.box(-0.97, -0.24, 0.97, 0.24, sausage, 0.23)
    pen.box(-0.8, 0.12, 0.8, 0.56, shade(bun, 0.9), 0.22)
    step = look.vary(0.2, 0.26)
    wave = [(-0.8 + i * step, -0.14 + 0.1 * (-1) ** i) for i in range(int(1.6 / step) + 1)]
    pen.stroke(wave, 0.1, (250, 210, 50))


def carrot(pen: Pen, look: Look) -> None:
    root, wide = look.color, look.vary(0.3, 0.4)
    for angle in (-32, 0, 32):
        pen.ellipse(0.36 * math.sin(math.radians(angle)), -0.72, 0.12, 0.3, (70, 160, 60), angle)
    pen.polygon([(-wide, -0.42), (wide, -0.42), (wide * 0.7, 0.2), (0.04, 0.98), (-wide * 0.7, 0.2)], root)
    pen.ellipse(0, -0.42, wide, 0.16, root)
    for y, reach in ((-0.15, 0.6), (0.15, -0.55), (0.4, 0.35)):
        pen.stroke([(wide * reach, y), (wide * reach * 0.3, y + 0.03)], 0.06, shade(root, 0.7))


def cake(pen: Pen, look: Look) -> None:
    """Two tiers with icing and candles."""
    sponge, icing = look.accent, look.color
    for x in (-0.25, 0.0, 0.25):
        pen.box(x - 0.05, -0.8, x + 0.05, -0.45, (250, 240, 200))
        pen.ellipse(x, -0.87, 0.06, 0.1, (255, 170, 40))
    pen.box(-0.52, -0.5, 0.52, 0.15, icing, 0.08)
    pen.box(-0.85, 0.05, 0.85, 0.86, sponge, 0.08)
    pen.box(-0.88, 0.0, 0.88, 0.26, icing, 0.1)
    for i in range(5):
        pen.ellipse(-0.7 + 0.35 * i, 0.26, 0.14, look.vary(0.1, 0.2), icing)
    pen.box(-0.95, 0.84, 0.95, 0.96, (215, 215, 225), 0.05)


def ice_cream(pen: Pen, look: Look) -> None:
    """A waffle cone with two scoops."""
    wide = look.vary(0.42, 0.52)
    pen.polygon([(-wide, 0.0), (wide, 0.0), (0, 0.98)], (215, 160, 85))
    for offset in (-0.25, 0.0, 0.25):
        pen.stroke([(offset - 0.12, 0.08), (offset * 0.4 + 0.05, 0.5)], 0.045, (165, 110, 50))
    pen.ellipse(0, -0.14, wide + 0.06, 0.34, look.color)
    pen.ellipse(0, -0.56, wide - 0.02, 0.36, look.accent)
    pen.ellipse(0.02, -0.9, 0.1, 0.1, (215, 35, 50))


def watermelon(pen: Pen, look: Look) -> None:
    """A half-round slice: green rind, red flesh, seeds."""
    radius = look.vary(0.9, 0.97)
    pen.sector(0, -0.38, radius, 0, 180, (50, 130, 60))
    pen.sector(0, -0.38, radius - 0.12, 0, 180, (225, 240, 190))
    pen.sector(0, -0.38, radius - 0.2, 0, 180, look.color)
    for angle, distance in ((25, 0.5), (60, 0.36), (62, 0.64), (95, 0.52), (125, 0.34), (150, 0.55)):
        x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        pen.ellipse(x * distance, y * distance - 0.38, 0.05, 0.075, (40, 25, 30), angle + 90)


def donut(pen: Pen, look: Look) -> None:
    """A ring with icing and sprinkles; what lies behind shows through the hole as a dark disc."""
    icing = look.color
    pen.ellipse(0, 0, 0.92, 0.88, (205, 145, 80))
    pen.ellipse(0, -0.04, 0.82, 0.76, icing)
    hole = look.vary(0.24, 0.32)
    for i in range(9):
        x, y = math.cos(i * 0.7 + 0.2) * 0.56, math.sin(i * 0.7 + 0.2) * 0.52
        pen.ellipse(x, y - 0.04, 0.09, 0.045, look.accent, i * 50)
    pen.ellipse(0, -0.02, hole + 0.07, hole + 0.05, (205, 145, 80))
    pen.ellipse(0, 0, hole, hole, (95, 60, 40))
