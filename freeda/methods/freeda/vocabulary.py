"""The classes of a segmentation, and what a background is made of, with what is computed of them once.

Shapes: `C` classes, `K` width of a key, `D` width of a dense feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from freeda.methods.freeda.vocabulary import BACKGROUND_CONCEPTS
from freeda.class_names import ClassName
from freeda.records import ClassPrototypes
from freeda.class_names import BACKGROUND
from freeda.class_names import parse_classes

__all__ = ["Vocabulary", "parse_concepts", "unasked"]


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    concepts: what the background is made of, where it is asked for; each is scored like a class, in
    rows after those of the classes. texts: (C, K) unit text embeddings; prototypes: (C, D) unit class
    prototypes; retrieved: which prototypes of the index are behind each class.
    """

    classes: tuple[ClassName, ...]
    concepts: tuple[ClassName, ...]
    texts: torch.Tensor
    prototypes: torch.Tensor
    retrieved: ClassPrototypes

    @property
    def row_names(self) -> tuple[str, ...]:
        """What every row stands for, for people."""
        concepts = (f"{BACKGROUND}: {item.name}" for item in self.concepts)
        return (*(item.name for item in self.classes), *concepts)


def unasked(concepts: Sequence[str], classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The background concepts that nobody asked for as a class."""
    asked = {name.casefold() for item in classes for name in item.names}
    return tuple(ClassName(name) for name in concepts if name.casefold() not in asked)


def parse_concepts(concepts: str | Sequence[str]) -> tuple[str, ...]:
    """Names from "sky; wall" or a list of such entries; "usual" and "none" stand for lists."""
    if concepts == "none":
        return ()
    if concepts == "usual":
        return BACKGROUND_CONCEPTS
    return tuple(name for item in parse_classes(concepts) for name in item.names)
