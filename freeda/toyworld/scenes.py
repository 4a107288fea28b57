"""Scenes drawn by code: a background of stuff, one to four things on it, exact masks for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from freeda.toyworld.drawing import animals, food, objects, plants, stuff, vehicles
from freeda.toyworld.drawing.pen import Look, Pen
from freeda.toyworld.vocabulary import COLORS, KINDS, STUFF_KINDS, THING_KINDS, Kind

__all__ = ["SPLITS", "Placement", "Scene", "draw_scene", "draw_thing", "scene_rng"]

SPLITS = {"train": 0, "validation": 1, "example": 2, "evaluation": 3}
"""Every split seeds its own stream of scenes, so that no two splits ever share one."""

LABELS = {kind.name: label for label, kind in enumerate(KINDS)}
_SIDE_BY_COUNT = {1: (0.6, 0.92), 2: (0.5, 0.7), 3: (0.44, 0.58), 4: (0.4, 0.52)}
_MIN_VISIBLE = 0.6
_PLACEMENT_TRIES = 30
_ABOVE = ("sky", "brick", "water")
"""Stuff that may stand behind other stuff, in a scene that has two."""
_GROUNDS = ("grass", "sand", "water", "snow", "wood", "gravel", "tiles", "carpet")


@dataclass(frozen=True)
class Placement:
    """One thing in a scene; `top`, `left` and `side` in pixels, `color` by its name."""

    kind: Kind
    color: str
    top: int
    left: int
    side: int


@dataclass(frozen=True)
class Scene:
    """A drawn scene with its exact annotation.

    image: (H, W, 3) uint8, RGB.
    labels: (H, W) uint8, index into `vocabulary.KINDS` (things, then stuff).
    instances: (H, W) uint8; 0 .. len(stuff) - 1 are the stuff, then the things in drawing order.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    things: tuple[Placement, ...]
    stuff: tuple[Kind, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of every instance number."""
        return (*self.stuff, *(placement.kind for placement in self.things))


def scene_rng(split: str, number: int) -> np.random.Generator:
    """The random stream of scene `number` of a split ("train", "example", ...)."""
    return np.random.default_rng([SPLITS[split], number])


def draw_thing(rng: np.random.Generator, kind: Kind, color: str, side: int) -> np.ndarray:
    """One instance on a transparent square: (side, side, 4) uint8 RGBA."""
    pen = Pen(
        side,
        angle=float(rng.uniform(-0.22, 0.22)),
        stretch=float(rng.uniform(0.9, 1.12)),
        mirrored=bool(rng.random() < 0.5),
    )
    accents = [name for name in COLORS if name not in (color, "black")]
    look = Look(
        color=_jitter(rng, COLORS[color]),
        accent=_jitter(rng, COLORS[accents[int(rng.integers(len(accents)))]]),
        rng=rng,
    )
    _DRAW[kind.key](pen, look)
    return pen.picture()


def draw_scene(rng: np.random.Generator, size: int | tuple[int, int] = 128) -> Scene:
    """Draws one scene; `size` is (height, width) in pixels, or one number for a square."""
    height, width = (size, size) if isinstance(size, int) else size
    image, instances, backgrounds = _draw_background(rng, height, width)
    count = int(rng.choice((1, 2, 3, 4), p=(0.3, 0.35, 0.2, 0.15)))
    things: list[Placement] = []
    for placement in _place(rng, height, width, count):
        _paste(rng, image, instances, placement, len(backgrounds) + len(things))
        things.append(placement)
    labels = _labels_of(instances, (*backgrounds, *(thing.kind for thing in things)))
    return Scene(image.astype(np.uint8), labels, instances, tuple(things), backgrounds)


def _draw_background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, tuple[Kind, ...]]:
    unit = min(height, width) / 128
    instances = np.zeros((height, width), np.uint8)
    if rng.random() < 0.55:
        kind = STUFF_KINDS[int(rng.integers(len(STUFF_KINDS)))]
        return _texture(rng, kind, height, width, unit), instances, (kind,)
    above, below = _two_stuffs(rng)
    horizon = height * rng.uniform(0.3, 0.6)
    wave = np.sin(np.linspace(0, rng.uniform(1, 6), width) + rng.uniform(0, 6))
    line = horizon + wave * height * rng.choice((0.0, 0.025, 0.05))
    instances[np.arange(height)[:, None] >= line[None]] = 1
    layers = [_texture(rng, kind, height, width, unit) for kind in (above, below)]
    return np.where(instances[..., None] == 1, layers[1], layers[0]), instances, (above, below)


def _two_stuffs(rng: np.random.Generator) -> tuple[Kind, Kind]:
    above = str(rng.choice(_ABOVE))
    below = str(rng.choice([name for name in _GROUNDS if name != above]))
    return KINDS[LABELS[above]], KINDS[LABELS[below]]


def _texture(rng: np.random.Generator, kind: Kind, height: int, width: int, unit: float) -> np.ndarray:
    return _DRAW[kind.key](rng, height, width, unit)


def _place(rng: np.random.Generator, height: int, width: int, count: int) -> list[Placement]:
    """Chooses kinds, colours and boxes; boxes may overlap a little, never hide each other."""
    low, high = _SIDE_BY_COUNT[count]
    same_kind = count > 1 and rng.random() < 0.15
    first = THING_KINDS[int(rng.integers(len(THING_KINDS)))]
    placed: list[Placement] = []
    for _ in range(count):
        kind = first if same_kind else THING_KINDS[int(rng.integers(len(THING_KINDS)))]
        color = str(rng.choice(kind.colors))
        for _ in range(_PLACEMENT_TRIES):
            side = int(min(height, width) * rng.uniform(low, high))
            top = int(rng.uniform(-0.05, 1.05) * (height - side))
            left = int(rng.uniform(-0.05, 1.05) * (width - side))
            candidate = Placement(kind, color, top, left, side)
            if all(_overlap(candidate, other) < 1 - _MIN_VISIBLE for other in placed):
                placed.append(candidate)
                break
    return placed


def _overlap(a: Placement, b: Placement) -> float:
    """Intersection of the two boxes over the smaller one."""
    tall = min(a.top + a.side, b.top + b.side) - max(a.top, b.top)
    wide = min(a.left + a.side, b.left + b.side) - max(a.left, b.left)
    return max(tall, 0) * max(wide, 0) / min(a.side, b.side) ** 2


def _paste(
    rng: np.random.Generator,
    image: np.ndarray,
    instances: np.ndarray,
    placement: Placement,
    number: int,
) -> None:
    sprite = draw_thing(rng, placement.kind, placement.color, placement.side)
    height, width = instances.shape
    top, left = max(placement.top, 0), max(placement.left, 0)
    bottom = min(placement.top + placement.side, height)
    right = min(placement.left + placement.side, width)
    part = sprite[top - placement.top : bottom - placement.top][
        :, left - placement.left : right - placement.left
    ]
    alpha = part[..., 3:].astype(np.float32) / 255
    window = (slice(top, bottom), slice(left, right))
    image[window] = image[window] * (1 - alpha) + part[..., :3] * alpha
    instances[window][part[..., 3] > 127] = number


def _labels_of(instances: np.ndarray, kinds: tuple[Kind, ...]) -> np.ndarray:
    lookup = np.array([LABELS[kind.name] for kind in kinds], np.uint8)
    return lookup[instances]


def _jitter(rng: np.random.Generator, color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(c + rng.integers(-14, 15), 0, 255)) for c in color)
    return red, green, blue


_DRAW = {
    kind.key: next(
        getattr(module, kind.key)
        for module in (animals, food, vehicles, objects, plants, stuff)
        if hasattr(module, kind.key)
    )
    for kind in KINDS
}
