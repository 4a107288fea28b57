"""Windows cut from training scenes, with a caption of what each shows.

Shapes are learnt faster from small pictures: a window around one or two things, at their true scale, costs a
quarter of a whole scene's step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from freeda.toyworld.captions import describe_parts
from freeda.toyworld.train.data import IMAGE_SIZE, Content, SceneCache
from freeda.toyworld.vocabulary import Kind

__all__ = ["CELL", "Crops", "SceneBoxes", "draw_crops"]

CELL = 4
"""Pixels per latent: windows begin on a border of latents, so that latents can be cut in place of pixels."""
_MIN_VISIBLE = 0.35
"""Share of a thing that a window must show for its caption to name it."""
_MIN_STUFF = 0.06
"""Share of a window that stuff must cover to be named."""


@dataclass(frozen=True)
class SceneBoxes:
    """Where every thing of every scene is.

    boxes: per scene (things, 4) int64: top, left, bottom, right in pixels, the last two exclusive.
    areas: per scene (things,) int64 pixels; 0 for a hidden thing.
    """

    boxes: list[np.ndarray]
    areas: list[np.ndarray]

    @classmethod
    def of(cls, scenes: SceneCache) -> SceneBoxes:
        found = [_boxes(scenes.instances[n], scenes.contents[n]) for n in range(len(scenes))]
        return cls([boxes for boxes, _ in found], [areas for _, areas in found])

    def fitting(self, number: int, side: int) -> np.ndarray:
        """Numbers of the scene's things that fit a window of `side` pixels, wherever its latents begin."""
        boxes = self.boxes[number]
        extent = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        return np.flatnonzero((self.areas[number] > 0) & (extent <= side - CELL))

    def scenes_fitting(self, side: int) -> np.ndarray:
        """Numbers of the scenes that have such a thing."""
        return np.flatnonzero([len(self.fitting(number, side)) > 0 for number in range(len(self.boxes))])


@dataclass(frozen=True)
class Crops:
    """Square windows. corners: (B, 2) int64 top and left in pixels, multiples of `CELL`; captions: B."""

    corners: np.ndarray
    captions: list[str]


def draw_crops(
    scenes: SceneCache, boxes: SceneBoxes, numbers: np.ndarray, side: int, rng: np.random.Generator
) -> Crops:
    """A window of each scene that holds one of its things whole, where one fits, else one anywhere."""
    corners, captions = [], []
    for number in numbers:
        fitting = boxes.fitting(number, side)
        box = boxes.boxes[number][rng.choice(fitting)] if len(fitting) else None
        top, left = (_corner(box, axis, side, rng) for axis in (0, 1))
        shown = scenes.instances[number][top : top + side, left : left + side]
        corners.append((top, left))
        captions.append(_caption(shown, boxes.areas[number], scenes.contents[number], rng))
    return Crops(np.array(corners), captions)


def _corner(box: np.ndarray | None, axis: int, side: int, rng: np.random.Generator) -> int:
    """Where a window begins along one axis so that it holds the box."""
    last = IMAGE_SIZE - side
    low, high = (0, last) if box is None else (max(0, box[axis + 2] - side), min(last, box[axis]))
    return CELL * int(rng.integers(-(-low // CELL), high // CELL + 1))


def _caption(shown: np.ndarray, areas: np.ndarray, content: Content, rng: np.random.Generator) -> str:
    stuffs = len(content.stuff)
    pixels = np.bincount(shown.ravel(), minlength=stuffs + len(areas))
    visible = pixels[stuffs : stuffs + len(areas)] >= _MIN_VISIBLE * np.maximum(areas, 1)
    things = [item for item, named in zip(content.things, visible, strict=True) if named]
    return describe_parts(things, _named_stuff(pixels[:stuffs], shown.size, content.stuff), rng)


def _named_stuff(pixels: np.ndarray, total: int, stuff: tuple[Kind, ...]) -> list[Kind]:
    """All that covers enough of the window, at least what covers most."""
    return [
        kind
        for kind, count in zip(stuff, pixels, strict=True)
        if count >= _MIN_STUFF * total or count == pixels.max()
    ]


def _boxes(instances: np.ndarray, content: Content) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.zeros((len(content.things), 4), np.int64)
    areas = np.zeros(len(content.things), np.int64)
    for thing in range(len(content.things)):
        rows, columns = np.nonzero(instances == len(content.stuff) + thing)
        if len(rows):
            boxes[thing] = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
            areas[thing] = len(rows)
    return boxes, areas
