"""Tools, household objects and furniture, each in unit coordinates (see `pen.Pen`)."""

from __future__ import annotations

import math

from freeda.toyworld.drawing.pen import BLACK, RGB, WHITE, Look, Pen, shade

STEEL: RGB = (150, 155, 165)
TIMBER: RGB = (165, 110, 60)


def hammer(pen: Pen, look: Look) -> None:
    grip = look.vary(0.12, 0.16)
    pen.box(-grip, -0.5, grip, 0.96, look.color, 0.08)
    pen.box(-0.62, -0.9, 0.4, -0.42, STEEL, 0.06)
    pen.box(-0.8, -0.94, -0.56, -0.38, shade(STEEL, 0.75), 0.05)
    pen.polygon([(0.38, -0.9), (0.85, -0.6), (0.38, -0.42)], shade(STEEL, 0.85))


def key(pen: Pen, look: Look) -> None:
    metal, bow = look.color, look.vary(0.36, 0.44)
    pen.ellipse(-0.52, 0, bow, bow, metal)
    pen.ellipse(-0.58, 0, bow * 0.42, bow * 0.42, shade(metal, 0.4))
    pen.box(-0.2, -0.13, 0.95, 0.13, metal, 0.06)
    for x, length in ((0.4, 0.4), (0.68, 0.5)):
        pen.box(x, 0.0, x + 0.19, length, metal)


def umbrella(pen: Pen, look: Look) -> None:
    """Open: a canopy of two alternating colours over a hooked stick."""
    cloth, other = look.color, look.accent
    tall = look.vary(0.8, 0.95)
    pen.stroke([(0, -0.2), (0, 0.76), (0.1, 0.9), (0.25, 0.84)], 0.1, (95, 65, 45))
    pen.sector(0, 0.05, tall, 180, 360, cloth)
    pen.polygon([(-0.32, 0.05), (-0.2, -0.6), (0, -tall), (0.2, -0.6), (0.32, 0.05)], other)
    for x in (-0.62, 0.0, 0.62):
        pen.ellipse(x, 0.05, 0.31, 0.08, shade(cloth, 0.75))


def cup(pen: Pen, look: Look) -> None:
    """A mug with a handle, full of coffee."""
    glaze, low = look.color, look.vary(0.42, 0.54)
    pen.arc(0.6, 0.1, 0.28, -100, 100, 0.15, shade(glaze, 0.8))
    pen.polygon([(-0.68, -0.5), (0.62, -0.5), (low, 0.85), (-low - 0.06, 0.85)], glaze)
    pen.ellipse(-0.03, -0.5, 0.65, 0.2, shade(glaze, 1.4))
    pen.ellipse(-0.03, -0.48, 0.54, 0.14, (95, 55, 30))
    pen.box(-0.58, 0.0, 0.52, 0.2, look.accent)


def clock(pen: Pen, look: Look) -> None:
    """An alarm clock: two bells, a white face, hands at any hour."""
    rim = look.color
    for side in (-1, 1):
        pen.ellipse(side * 0.5, -0.66, 0.27, 0.2, shade(rim, 0.7), side * 35)
        pen.stroke([(side * 0.45, 0.7), (side * 0.62, 0.94)], 0.13, shade(rim, 0.6))
    pen.ellipse(0, 0.08, 0.8, 0.8, rim)
    pen.ellipse(0, 0.08, 0.62, 0.62, WHITE)
    for length in (0.46, 0.3):
        angle = look.vary(0, 2 * math.pi)
        pen.stroke([(0, 0.08), (length * math.cos(angle), 0.08 + length * math.sin(angle))], 0.09, BLACK)


def guitar(pen: Pen, look: Look) -> None:
    """Upright: a waisted body, a sound hole, a long neck."""
    body = look.color
    pen.box(-0.09, -0.85, 0.09, 0.1, (90, 60, 40))
    pen.box(-0.16, -0.98, 0.16, -0.72, (60, 40, 30), 0.05)
    pen.ellipse(0, 0.12, look.vary(0.36, 0.42), 0.32, body)
    pen.ellipse(0, 0.56, look.vary(0.5, 0.58), 0.42, body)
    pen.ellipse(0, 0.26, 0.16, 0.15, (50, 35, 30))
    pen.box(-0.22, 0.62, 0.22, 0.72, (60, 40, 30))
    pen.stroke([(0, -0.8), (0, 0.66)], 0.04, (240, 225, 190))


def chair(pen: Pen, look: Look) -> None:
    """Three-quarter view: a tall back, a padded seat, four legs."""
    seat, frame = look.color, shade(look.color, 0.65)
    tall = look.vary(-0.97, -0.8)
    for x in (-0.5, -0.28, 0.3, 0.52):
        pen.box(x - 0.09, 0.2, x + 0.09, 0.96 if abs(x) > 0.4 else 0.84, frame)
    pen.box(-0.6, tall, -0.3, 0.3, frame, 0.06)
    pen.box(-0.52, tall + 0.08, 0.02, 0.1, seat, 0.1)
    pen.box(-0.62, 0.02, 0.66, 0.32, shade(seat, 1.15), 0.12)


def lamp(pen: Pen, look: Look) -> None:
    """A table lamp: a wide glowing shade on a thin stand."""
    cloth, wide = look.color, look.vary(0.66, 0.82)
    pen.box(-0.08, 0.0, 0.08, 0.85, (110, 90, 75))
    pen.ellipse(0, 0.86, 0.44, 0.12, (110, 90, 75))
    pen.polygon([(-0.36, -0.9), (0.36, -0.9), (wide, 0.12), (-wide, 0.12)], cloth)
    pen.polygon([(-0.14, -0.9), (0.14, -0.9), (0.28, 0.12), (-0.28, 0.12)], shade(cloth, 1.5))
    pen.stroke([(wide - 0.02, 0.1), (-wide + 0.02, 0.1)], 0.07, shade(cloth, 0.7))


def bed(pen: Pen, look: Look) -> None:
    """In profile: a headboard, a pillow, a blanket hanging down."""
    blanket = look.color
    pen.box(-0.97, look.vary(-0.68, -0.5), -0.78, 0.8, TIMBER, 0.05)
    pen.box(0.8, -0.1, 0.97, 0.8, TIMBER, 0.05)
    pen.box(-0.8, 0.3, 0.82, 0.56, shade(TIMBER, 0.8))
    pen.box(-0.8, 0.0, 0.82, 0.34, WHITE, 0.05)
    pen.ellipse(-0.55, -0.1, 0.26, 0.17, (225, 230, 245))
    pen.box(-0.28, -0.14, 0.84, 0.46, blanket, 0.09)
    pen.box(-0.28, -0.14, 0.02, 0.46, shade(blanket, 1.45), 0.09)
