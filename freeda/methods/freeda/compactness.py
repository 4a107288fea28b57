"""How similar a class's prototypes are to one another, which says how similar a region of the class will be.

Prototypes of a texture are nearly the same; those of an animal in many poses and colours differ. A region of
the animal is less similar to the mean of its prototypes than one of the texture is to the mean of the
texture's, and so classes with similar prototypes win too often. A `compactness_weight` compares regions with
what is usual for each class. A nearest-mean classifier by Euclidean distance does nearly the same, and so
does CSLS (Conneau et al. 2018) against hubs; both take away half. FreeDA compares plain cosines.

Shapes: `C` classes, `D` width of a visual vector, `n` prototypes of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from freeda.index.reader import PrototypeIndex
from freeda.records import ClassPrototypes

__all__ = ["compactness", "compactness_of"]

Compare = Callable[[torch.Tensor], torch.Tensor]


def compactness(index: PrototypeIndex, retrieved: ClassPrototypes, compared: Compare) -> torch.Tensor:
    """(C,): the mean cosine of each of a class's prototypes and the mean of its others.

    retrieved: without photographs beside generated prototypes.
    compared: (n, D) unit vectors of (n, D) features, as regions are compared.
    """
    return compactness_of((index.vectors(rows[rows >= 0]) for rows in retrieved.rows), compared)


def compactness_of(classes: Iterable[np.ndarray], compared: Compare) -> torch.Tensor:
    """The same of each class's (n, D) vectors.

    A class that has a single prototype gets the mean of the other classes; where all have, all get 0.
    """
    found = torch.tensor([_of_class(vectors, compared) for vectors in classes])
    return found.nan_to_num(nan=float(found.nanmean().nan_to_num(0.0)))


def _of_class(vectors: np.ndarray, compared: Compare) -> float:
    """NaN of fewer than two (n, D) vectors that are finite."""
    held = torch.from_numpy(vectors[np.isfinite(vectors).all(1)])
    if len(held) < 2:
        return float("nan")
    others = (held.sum(0) - held) / (len(held) - 1)
    return float((compared(held) * compared(others)).sum(1).mean())
