"""Animals, each in unit coordinates (see `pen.Pen`)."""

from __future__ import annotations

from freeda.toyworld.drawing.pen import BLACK, WHITE, Look, Pen, shade


def cat(pen: Pen, look: Look) -> None:
    """Sitting, seen from the front: pointed ears, a tail beside the body."""
    fur, dark = look.color, shade(look.color, 0.75)
    head = look.vary(0.38, 0.48)
    pen.stroke([(0.35, 0.75), (0.75, 0.6), (0.8, look.vary(-0.1, 0.3))], 0.18, dark)
    pen.ellipse(0, 0.5, look.vary(0.42, 0.54), 0.5, fur)
    for side in (-1, 1):
        pen.polygon([(side * 0.08, -0.62), (side * head, -0.98), (side * head, -0.3)], fur)
        pen.polygon(
            [(side * 0.2, -0.62), (side * (head - 0.06), -0.85), (side * 0.36, -0.45)],
            (240, 170, 170),
        )
        pen.ellipse(side * 0.24, 0.93, 0.16, 0.07, dark)
    pen.ellipse(0, -0.32, head + 0.05, head - 0.02, fur)
    for side in (-1, 1):
        pen.ellipse(side * 0.19, -0.38, 0.09, 0.11, (190, 220, 90))
        pen.ellipse(side * 0.19, -0.38, 0.035, 0.1, BLACK)
    pen.polygon([(-0.07, -0.22), (0.07, -0.22), (0, -0.14)], (225, 120, 130))
    pen.ellipse(0, 0.55, 0.2, 0.3, shade(fur, 1.35))


def dog(pen: Pen, look: Look) -> None:
    """Standing in profile: long muzzle, hanging ear, four legs."""
    fur, dark = look.color, shade(look.color, 0.7)
    back, leg = look.vary(-0.12, 0.02), look.vary(0.17, 0.22)
    pen.stroke([(-0.68, back + 0.15), (-0.94, back - look.vary(0.2, 0.4))], 0.13, fur)
    for x in (-0.6, -0.34, 0.18, 0.44):
        pen.box(x - leg / 2, 0.3, x + leg / 2, 0.92, fur if x in (-0.6, 0.44) else dark, 0.06)
    pen.box(-0.78, back, 0.6, 0.52, fur, 0.24)
    pen.polygon([(0.25, back), (0.3, -0.5), (0.72, -0.5), (0.66, 0.3)], fur)
    pen.ellipse(0.5, -0.52, 0.3, 0.27, fur)
    pen.box(0.5, -0.56, 0.97, -0.3, shade(fur, 1.15), 0.1)
    pen.ellipse(0.93, -0.5, 0.08, 0.07, BLACK)
    pen.ellipse(0.3, -0.42, 0.13, look.vary(0.26, 0.36), dark, 10)
    pen.eye(0.56, -0.62, 0.07)
    pen.stroke([(0.32, -0.06), (0.68, -0.1)], 0.1, look.accent)


def bird(pen: Pen, look: Look) -> None:
    """Perched in profile: round body, wing, beak, two stick legs."""
    body, wing = look.color, shade(look.color, 0.68)
    pen.polygon([(-0.4, 0.1), (-0.98, look.vary(-0.3, 0.1)), (-0.92, 0.42), (-0.3, 0.45)], wing)
    for x in (-0.05, 0.2):
        pen.stroke([(x, 0.55), (x + 0.04, 0.92), (x + 0.2, 0.94)], 0.07, (230, 150, 40))
    pen.ellipse(0, 0.18, 0.58, look.vary(0.42, 0.5), body)
    pen.ellipse(0.18, 0.32, 0.34, 0.3, shade(body, 1.55))
    pen.ellipse(0.42, -0.36, 0.36, 0.34, body)
    pen.polygon([(0.7, -0.5), (0.99, -0.32), (0.68, -0.2)], (245, 170, 40))
    pen.ellipse(-0.18, 0.12, 0.4, 0.24, wing, 18)
    pen.eye(0.5, -0.42, 0.1)


def fish(pen: Pen, look: Look) -> None:
    """In profile: oval body, forked tail, fins, stripes."""
    body, fin = look.color, look.accent
    tall = look.vary(0.42, 0.56)
    pen.polygon([(-0.5, 0), (-0.97, -0.5), (-0.82, 0), (-0.97, 0.5)], fin)
    pen.polygon([(-0.25, -tall * 0.7), (0.05, -0.88), (0.35, -tall * 0.7)], fin)
    pen.polygon([(-0.1, tall * 0.8), (0.05, 0.8), (0.25, tall * 0.7)], fin)
    pen.ellipse(0.15, 0, 0.8, tall, body)
    for x in (-0.3, 0.0):
        pen.ellipse(x, 0, 0.07, tall * 0.8, fin)
    pen.ellipse(0.35, 0.08, 0.1, 0.2, shade(body, 0.75))
    pen.eye(0.62, -0.12, 0.12)


def rabbit(pen: Pen, look: Look) -> None:
    """Sitting: two tall ears, round cheeks, big feet."""
    fur, light = look.color, shade(look.color, 1.45)
    spread = look.vary(0.14, 0.24)
    for side in (-1, 1):
        pen.ellipse(side * (spread + 0.06), -0.66, 0.15, 0.34, fur, side * 12)
        pen.ellipse(side * (spread + 0.06), -0.66, 0.07, 0.25, (245, 180, 190), side * 12)
    pen.ellipse(0, 0.5, look.vary(0.44, 0.54), 0.46, fur)
    pen.ellipse(0, 0.55, 0.26, 0.32, light)
    pen.ellipse(0, -0.12, 0.4, 0.36, fur)
    for side in (-1, 1):
        pen.ellipse(side * 0.3, 0.9, 0.24, 0.09, light)
        pen.ellipse(side * 0.12, 0.02, 0.13, 0.1, light)
        pen.ellipse(side * 0.17, -0.2, 0.065, 0.08, BLACK)
    pen.ellipse(0, -0.06, 0.06, 0.045, (225, 110, 130))


def elephant(pen: Pen, look: Look) -> None:
    """In profile: heavy body, hanging trunk, a large ear, a tusk."""
    skin, dark = look.color, shade(look.color, 0.78)
    for x in (-0.68, -0.32, 0.05, 0.32):
        pen.box(x, 0.2, x + 0.25, 0.92, dark if x in (-0.32, 0.05) else skin, 0.05)
    pen.ellipse(-0.2, 0.02, 0.68, look.vary(0.48, 0.56), skin)
    pen.stroke([(-0.85, -0.05), (-0.95, 0.35)], 0.07, dark)
    pen.ellipse(0.48, -0.3, 0.36, 0.38, skin)
    pen.stroke([(0.74, -0.2), (0.86, 0.2), (0.84, 0.6), (0.95, look.vary(0.6, 0.8))], 0.18, skin)
    pen.polygon([(0.6, 0.0), (0.72, 0.02), (0.76, 0.36)], WHITE)
    pen.ellipse(0.26, -0.26, look.vary(0.24, 0.3), 0.36, dark)
    pen.eye(0.62, -0.38, 0.06)


def turtle(pen: Pen, look: Look) -> None:
    """In profile: domed, patterned shell, head and stubby legs."""
    skin, shell = (150, 190, 90), look.color
    for x in (-0.5, 0.32):
        pen.ellipse(x, 0.62, 0.2, 0.22, shade(skin, 0.8))
    pen.polygon([(-0.75, 0.4), (-0.98, 0.58), (-0.6, 0.55)], skin)
    pen.stroke([(0.5, 0.35), (0.76, 0.12)], 0.24, skin)
    pen.ellipse(0.8, 0.04, 0.19, 0.17, skin)
    dome = look.vary(0.75, 0.95)
    pen.polygon(
        [(-0.78, 0.5), (-0.66, 0.08), (-0.4, -0.5 * dome), (0, -0.72 * dome)]
        + [(0.35, -0.5 * dome), (0.58, 0.08), (0.66, 0.5)],
        shell,
    )
    for x, y in ((-0.3, 0.12), (0.08, -0.22), (0.3, 0.2)):
        pen.ellipse(x, y, 0.17, 0.15, shade(shell, 0.65))
    pen.box(-0.82, 0.42, 0.7, 0.56, shade(shell, 1.3), 0.06)
    pen.eye(0.84, 0.0, 0.06)


def butterfly(pen: Pen, look: Look) -> None:
    """From above: four spotted wings around a dark body."""
    upper, lower = look.color, look.accent
    wide = look.vary(0.4, 0.5)
    for side in (-1, 1):
        pen.ellipse(side * 0.42, 0.44, 0.34, 0.4, lower, side * -35)
        pen.ellipse(side * 0.5, -0.36, wide, 0.46, upper, side * 25)
        pen.ellipse(side * 0.56, -0.4, 0.2, 0.22, shade(upper, 1.6))
        pen.ellipse(side * 0.44, 0.46, 0.13, 0.14, shade(lower, 1.6))
        pen.stroke([(0, -0.5), (side * 0.2, -0.92)], 0.06, BLACK)
    pen.ellipse(0, 0.0, 0.11, 0.62, BLACK)
    pen.ellipse(0, -0.56, 0.13, 0.13, BLACK)


def frog(pen: Pen, look: Look) -> None:
    """From the front: wide mouth, eyes on top, folded legs."""
    skin, dark = look.color, shade(look.color, 0.72)
    for side in (-1, 1):
        pen.ellipse(side * 0.66, 0.5, 0.3, 0.36, dark, side * 20)
        pen.ellipse(side * 0.62, 0.86, 0.32, 0.1, skin)
    pen.ellipse(0, 0.4, 0.56, 0.5, skin)
    pen.ellipse(0, 0.52, 0.36, 0.34, shade(skin, 1.6))
    pen.ellipse(0, -0.2, look.vary(0.62, 0.72), 0.42, skin)
    for side in (-1, 1):
        pen.ellipse(side * 0.38, -0.56, 0.24, 0.24, skin)
        pen.ellipse(side * 0.38, -0.58, 0.16, 0.16, WHITE)
        pen.ellipse(side * 0.38, -0.58, 0.08, 0.1, BLACK)
    pen.stroke([(-0.42, -0.1), (0, 0.0), (0.42, -0.1)], 0.07, shade(skin, 0.4))


def pig(pen: Pen, look: Look) -> None:
    """In profile: barrel body, snout, short legs, curly tail."""
    skin, dark = look.color, shade(look.color, 0.8)
    for x in (-0.56, -0.28, 0.12, 0.4):
        pen.box(x - 0.1, 0.4, x + 0.1, 0.88, dark, 0.04)
    pen.arc(-0.84, -0.05, 0.1, 0, 300, 0.07, dark)
    pen.ellipse(-0.12, 0.12, 0.68, look.vary(0.46, 0.54), skin)
    pen.polygon([(0.3, -0.35), (0.42, -0.72), (0.6, -0.4)], dark)
    pen.ellipse(0.54, -0.06, 0.36, 0.38, skin)
    pen.ellipse(0.85, 0.04, 0.13, 0.18, dark)
    pen.ellipse(0.86, 0.0, 0.03, 0.05, shade(skin, 0.45))
    pen.ellipse(0.86, 0.1, 0.03, 0.05, shade(skin, 0.45))
    pen.eye(0.6, -0.18, 0.07)


def owl(pen: Pen, look: Look) -> None:
    """From the front: huge ringed eyes, tufts, folded wings."""
    body, wing = look.color, shade(look.color, 0.65)
    pen.ellipse(0, 0.25, 0.58, look.vary(0.62, 0.7), body)
    for side in (-1, 1):
        pen.polygon([(side * 0.1, -0.6), (side * 0.6, -0.95), (side * 0.58, -0.3)], wing)
    pen.ellipse(0, -0.36, 0.58, 0.44, body)
    pen.ellipse(0, 0.4, 0.34, 0.42, shade(body, 1.55))
    for side in (-1, 1):
        pen.ellipse(side * 0.52, 0.3, 0.18, 0.46, wing, side * 8)
        pen.ellipse(side * 0.26, -0.38, 0.26, 0.26, (250, 220, 110))
        pen.ellipse(side * 0.26, -0.38, 0.13, 0.13, BLACK)
        pen.ellipse(side * 0.2, 0.92, 0.13, 0.07, (235, 150, 40))
    pen.polygon([(-0.1, -0.26), (0.1, -0.26), (0, -0.02)], (235, 150, 40))
