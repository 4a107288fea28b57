"""Whitening of visual vectors: what differs among prototypes of one noun counts little, what differs between
nouns counts more.

Directions in which prototypes of one noun differ say nothing about the noun. Divided by the spread along
them, as in linear discriminant analysis (Fisher, 1936), the cosine of two vectors attends to the others. It
is computed from the index alone; no label of anybody's images is used. FreeDA compares plain vectors.

Shapes: `N` vectors, `D` their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from freeda.index.spread import Spread

__all__ = ["Whitening"]


@dataclass(frozen=True)
class Whitening:
    """An affine map of unit vectors, after which they are of unit length again.

    mean: (D,) and matrix: (D, D), float32.
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    @classmethod
    def of(cls, spread: Spread, shrinkage: float) -> Whitening:
        """shrinkage: what is added to all variances, as a share of their mean: without it, directions that a
        few prototypes happen to agree on would count most. It grows where there are fewer degrees of freedom
        than dimensions.
        """
        width = len(spread.mean)
        floor = shrinkage * max(1, width / spread.freedom) * np.trace(spread.within) / width
        variances, directions = np.linalg.eigh(spread.within)
        matrix = directions / np.sqrt(np.maximum(variances + floor, np.finfo(np.float32).tiny))
        return cls(*(torch.from_numpy(part.astype(np.float32)) for part in (spread.mean, matrix)))

    def to(self, device: torch.device) -> Whitening:
        return Whitening(self.mean.to(device), self.matrix.to(device))

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) unit vectors of (N, D) vectors of any length."""
        return functional.normalize((functional.normalize(vectors, dim=-1) - self.mean) @ self.matrix, dim=-1)
