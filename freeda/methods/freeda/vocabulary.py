"""The classes to segment and what the background is made of, with what is computed of them once.

Shapes: `C` classes, `K` width of a key, `D` width of a dense feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from freeda.class_names import BACKGROUND, ClassName
from freeda.methods.freeda.whitening import Whitening
from freeda.records import ClassPrototypes

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    concepts: what the background is made of, if there is one. Each is scored like a class; their rows follow
        those of the classes.
    texts: (C, K) unit text embeddings.
    prototypes: (C, D) unit class prototypes, whitened where features are.
    retrieved: which prototypes of the index are behind each class.
    whitening: of features before they are compared; None for none.
    usual: (C,), what is taken from the cosine of a region and each prototype.
    """

    classes: tuple[ClassName, ...]
    concepts: tuple[str, ...]
    texts: torch.Tensor
    prototypes: torch.Tensor
    retrieved: ClassPrototypes
    whitening: Whitening | None = None
    usual: torch.Tensor | float = 0.0

    def compared(self, features: torch.Tensor) -> torch.Tensor:
        """(R, D) features as they are compared with prototypes: whitened, or of unit length."""
        return functional.normalize(features, dim=-1) if self.whitening is None else self.whitening(features)

    @property
    def groups(self) -> list[slice]:
        """The rows of the classes, and those of the concepts where there are any."""
        names = len(self.classes)
        rows = [slice(0, names), slice(names, names + len(self.concepts))]
        return [group for group in rows if group.start < group.stop]

    @property
    def row_names(self) -> tuple[str, ...]:
        """What every row stands for, as people read it."""
        concepts = (f"{BACKGROUND}: {name}" for name in self.concepts)
        return (*(item.name for item in self.classes), *concepts)
