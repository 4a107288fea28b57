"""A colour for every class name, the same in label maps, overlays, legends, reports and evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from freeda.class_names import BACKGROUND

__all__ = ["GRAY", "PALETTE", "class_colors"]

GRAY = (115, 115, 115)
"""Of the background."""
PALETTE = tuple(
    """
    #0078e1 #d2f000 #78f096 #0000ff #c3690f #ffb4ff #782d78 #3cd2b4 #e1d25a #2d3cd2
    #d25ab4 #782da5 #f01e78 #78b45a #e19600 #c396ff #1effc3 #f01eff #a50fff #00d22d
    """.split()  # noqa: SIM905
)
"""Chosen one after the other, each as far as possible from those before in CIELAB, to normal, red-blind and
green-blind eyes (Machado et al. 2009), and from browns and grays.
"""
_APART = 50.0
"""Distance in CIELAB from which colours are not taken for one another."""
_SHADES = (0.0, 0.35, -0.35)
"""Shares of white, or of black, of which colours are mixed that are needed once more."""


def class_colors(classes: Sequence[str], present: Sequence[int] = ()) -> np.ndarray:
    """(C, 3) uint8 RGB: a colour per name, whatever its place in the list; the background is gray.

    A name's digest chooses its colour. Where that is like a colour already taken, the name takes the next
    that is not, or the least like. So colours differ among as many names as `PALETTE` has, and of more names,
    among as many of those present.
    present: numbers of the classes that an image shows; the first ones keep their colours.
    """
    first = list(present) if len(classes) > len(PALETTE) else []
    others = sorted(set(range(len(classes))) - set(first), key=lambda number: _digest(classes[number]))
    colors = np.empty((len(classes), 3), np.uint8)
    taken: list[int] = []
    for number in (*first, *others):
        if classes[number] == BACKGROUND:
            colors[number] = GRAY
            continue
        slot = _free_slot(_digest(classes[number]), taken)
        taken.append(slot)
        colors[number] = _color(slot)
    return colors


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _free_slot(digest: int, taken: Sequence[int]) -> int:
    """A slot is a colour of the palette, or of a shade of it once all of that are taken."""
    size = len(PALETTE)
    shade, used = divmod(len(taken), size)
    slots = [(digest + step) % size for step in range(size)]
    same = [slot % size for slot in taken[len(taken) - used :]]
    free = [slot for slot in slots if slot not in same]
    if same:
        apart = {slot: float(_distances()[slot, same].min()) for slot in free}
        free = [next((slot for slot in free if apart[slot] >= _APART), max(free, key=apart.__getitem__))]
    return shade % len(_SHADES) * size + free[0]


@lru_cache(maxsize=1)
def _distances() -> np.ndarray:
    """(P, P) distances of the palette's colours in CIELAB."""
    palette = np.stack([_color(slot) for slot in range(len(PALETTE))])
    lab = cv2.cvtColor((palette[None] / 255).astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    return np.asarray(np.linalg.norm(lab[:, None] - lab, axis=-1))


def _color(slot: int) -> np.ndarray:
    text, share = PALETTE[slot % len(PALETTE)], _SHADES[slot // len(PALETTE)]
    pure = np.array([int(text[start : start + 2], 16) for start in (1, 3, 5)], float)
    return (pure + abs(share) * ((255.0 if share > 0 else 0.0) - pure)).round().astype(np.uint8)
