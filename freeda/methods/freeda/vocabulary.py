"""The classes to segment and what the background is made of, with what is computed of them once.

Shapes: `C` classes, `K` width of a key, `D` width of a dense feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from freeda.class_names import BACKGROUND, ClassName, parse_classes
from freeda.records import ClassPrototypes

__all__ = ["BACKGROUND_CONCEPTS", "Vocabulary", "parse_concepts", "unnamed"]

BACKGROUND_CONCEPTS = (
    "sky",
    "cloud",
    "wall",
    "building",
    "house",
    "floor",
    "ceiling",
    "window",
    "curtain",
    "carpet",
    "road",
    "pavement",
    "bridge",
    "fence",
    "grass",
    "field",
    "tree",
    "forest",
    "leaves",
    "ground",
    "sand",
    "gravel",
    "rock",
    "mountain",
    "snow",
    "water",
    "sea",
    "river",
)
"""What surrounds things in photographs, for vocabularies that name only things."""


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    concepts: what the background is made of, if there is one. Each is scored like a class; their rows follow
        those of the classes.
    texts: (C, K) unit text embeddings.
    prototypes: (C, D) unit class prototypes.
    retrieved: which prototypes of the index are behind each class.
    """

    classes: tuple[ClassName, ...]
    concepts: tuple[ClassName, ...]
    texts: torch.Tensor
    prototypes: torch.Tensor
    retrieved: ClassPrototypes

    @property
    def groups(self) -> list[slice]:
        """The rows of the classes, and those of the concepts where there are any."""
        names = len(self.classes)
        rows = [slice(0, names), slice(names, names + len(self.concepts))]
        return [group for group in rows if group.start < group.stop]

    @property
    def row_names(self) -> tuple[str, ...]:
        """What every row stands for, as people read it."""
        concepts = (f"{BACKGROUND}: {item.name}" for item in self.concepts)
        return (*(item.name for item in self.classes), *concepts)


def unnamed(concepts: Sequence[str], classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The background concepts that are not among the names of the classes."""
    named = {name.casefold() for item in classes for name in item.names}
    return tuple(ClassName(name) for name in concepts if name.casefold() not in named)


def parse_concepts(concepts: str | Sequence[str]) -> tuple[str, ...]:
    """Names from "sky; wall" or a list of such entries; "usual" stands for `BACKGROUND_CONCEPTS`, "none" for
    none.
    """
    if concepts == "none":
        return ()
    if concepts == "usual":
        return BACKGROUND_CONCEPTS
    return tuple(name for item in parse_classes(concepts) for name in item.names)
