"""The example scenes that the page offers, each with classes to begin with."""

from __future__ import annotations

from functools import lru_cache

from freeda.toyworld.make_examples import EXAMPLES as _FOLDER
from freeda.toyworld.make_examples import example_images

__all__ = ["example_classes", "example_content"]

_OTHERS = ("dog", "train", "tree", "water", "grass", "sky")
"""Classes that are asked for beside those that a scene shows."""


@lru_cache(maxsize=1)
def example_classes() -> dict[str, list[str]]:
    """File names of the examples, and class names for each: what it shows, and some others."""
    shown = {f"{stem}.png": [kind.name for kind in scene.kinds] for stem, scene in example_images().items()}
    return {name: sorted({*kinds, *_OTHERS}) for name, kinds in shown.items()}


def example_content(name: str) -> bytes | None:
    """The PNG file of an example; None for another name."""
    return (_FOLDER / name).read_bytes() if name in example_classes() else None
