"""Vehicles, each in unit coordinates (see `pen.Pen`)."""

from __future__ import annotations

from freeda.toyworld.drawing.pen import RGB, WHITE, Look, Pen, shade

TYRE: RGB = (45, 45, 50)
GLASS: RGB = (180, 220, 240)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.ellipse(x, y, radius, radius, TYRE)
    pen.ellipse(x, y, radius * 0.5, radius * 0.5, (200, 200, 205))


def car(pen: Pen, look: Look) -> None:
    """In profile: a low body, a rounded cabin, two wheels."""
    paint = look.color
    front, rear = look.vary(0.4, 0.56), look.vary(-0.62, -0.5)
    pen.polygon([(rear, 0.0), (rear + 0.2, -0.52), (front - 0.25, -0.52), (front, 0.0)], paint)
    pen.polygon([(rear + 0.14, -0.04), (rear + 0.28, -0.42), (-0.06, -0.42), (-0.06, -0.04)], GLASS)
    pen.polygon([(0.05, -0.04), (0.05, -0.42), (front - 0.3, -0.42), (front - 0.12, -0.04)], GLASS)
    pen.box(-0.96, -0.06, 0.96, 0.42, paint, 0.18)
    pen.ellipse(0.88, 0.08, 0.08, 0.09, (255, 240, 150))
    for x in (-0.52, 0.52):
        _wheel(pen, x, 0.42, 0.25)


def bus(pen: Pen, look: Look) -> None:
    """In profile: a long tall box with a row of windows."""
    paint = look.color
    pen.box(-0.97, -0.62, 0.97, 0.5, paint, 0.12)
    for i in range(4):
        left = -0.84 + i * 0.38
        pen.box(left, -0.46, left + 0.3, look.vary(-0.08, 0.0), GLASS, 0.03)
    pen.box(0.7, -0.46, 0.92, 0.44, shade(GLASS, 0.85), 0.03)
    pen.box(-0.97, 0.12, 0.66, 0.22, look.accent)
    for x in (-0.58, 0.46):
        _wheel(pen, x, 0.5, 0.22)


def fire_truck(pen: Pen, look: Look) -> None:
    """In profile: red, with a ladder on the roof and a blue light on the cab."""
    paint = look.color
    lift = look.vary(-0.12, 0.0)
    for y in (-0.56, -0.4):
        pen.stroke([(-0.92, y), (0.32, y + lift)], 0.07, (225, 225, 230))
    for i in range(6):
        x = -0.86 + i * 0.22
        pen.stroke([(x, -0.56 + lift * i / 6), (x, -0.4 + lift * i / 6)], 0.06, (225, 225, 230))
    pen.box(-0.97, -0.28, 0.38, 0.46, paint, 0.05)
    pen.box(0.36, -0.5, 0.97, 0.46, paint, 0.1)
    pen.box(0.56, -0.38, 0.92, -0.02, GLASS, 0.04)
    pen.box(0.5, -0.7, 0.74, -0.5, (60, 110, 240), 0.05)
    pen.box(-0.97, 0.1, 0.97, 0.22, WHITE)
    for x in (-0.62, -0.15, 0.62):
        _wheel(pen, x, 0.48, 0.2)


def boat(pen: Pen, look: Look) -> None:
    """A hull with a mast and two sails."""
    tilt = look.vary(-0.08, 0.08)
    pen.stroke([(0.0, 0.4), (tilt, -0.92)], 0.08, (120, 80, 45))
    pen.polygon([(tilt + 0.06, -0.9), (0.72, 0.3), (0.06, 0.3)], WHITE)
    pen.polygon([(tilt - 0.06, -0.75), (-0.6, 0.3), (-0.06, 0.3)], look.accent)
    pen.polygon([(-0.95, 0.4), (0.95, 0.4), (0.62, 0.9), (-0.62, 0.9)], look.color)
    pen.polygon([(-0.95, 0.4), (0.95, 0.4), (0.88, 0.52), (-0.88, 0.52)], shade(look.color, 1.4))


def airplane(pen: Pen, look: Look) -> None:
    """From above: a slim body, swept wings, a tail."""
    body, wing = shade(look.color, 1.5), look.color
    sweep = look.vary(0.2, 0.4)
    pen.polygon([(0.25, 0), (-0.12 - sweep, -0.96), (-0.36 - sweep, -0.96), (-0.2, 0)], wing)
    pen.polygon([(0.25, 0), (-0.12 - sweep, 0.96), (-0.36 - sweep, 0.96), (-0.2, 0)], wing)
    pen.polygon([(-0.6, 0), (-0.82, -0.4), (-0.97, -0.4), (-0.9, 0)], wing)
    pen.polygon([(-0.6, 0), (-0.82, 0.4), (-0.97, 0.4), (-0.9, 0)], wing)
    pen.ellipse(0, 0, 0.96, 0.17, body)
    pen.ellipse(0.7, 0, 0.12, 0.09, (90, 150, 210))


def rocket(pen: Pen, look: Look) -> None:
    """Upright: a white body, coloured nose and fins, a flame."""
    paint, wide = look.color, look.vary(0.26, 0.34)
    pen.polygon([(-0.2, 0.5), (0.2, 0.5), (0, 0.98)], (255, 150, 30))
    pen.polygon([(-0.1, 0.5), (0.1, 0.5), (0, 0.8)], (255, 230, 90))
    for side in (-1, 1):
        pen.polygon([(side * wide * 0.8, 0.1), (side * 0.68, 0.62), (side * wide, 0.55)], paint)
    pen.ellipse(0, -0.1, wide, 0.72, (232, 232, 238))
    pen.polygon([(-wide * 0.72, -0.58), (wide * 0.72, -0.58), (0, -0.98)], paint)
    pen.ellipse(0, -0.2, 0.15, 0.15, shade(paint, 0.7))
    pen.ellipse(0, -0.2, 0.1, 0.1, GLASS)


def train(pen: Pen, look: Look) -> None:
    """A steam engine in profile: boiler, cab, funnel, three wheels."""
    paint, dark = look.color, shade(look.color, 0.6)
    funnel = look.vary(-0.95, -0.75)
    pen.box(0.42, funnel, 0.66, -0.1, dark)
    pen.box(0.34, funnel, 0.74, funnel + 0.14, dark)
    pen.box(-0.3, -0.26, 0.86, 0.36, paint, 0.14)
    pen.box(-0.92, -0.66, -0.26, 0.42, look.accent)
    pen.box(-1.0, -0.82, -0.2, -0.62, dark, 0.05)
    pen.box(-0.78, -0.5, -0.42, -0.1, GLASS)
    pen.box(-0.96, 0.34, 0.96, 0.52, dark)
    for x, radius in ((-0.6, 0.27), (0.05, 0.22), (0.58, 0.22)):
        _wheel(pen, x, 0.86 - radius, radius)
