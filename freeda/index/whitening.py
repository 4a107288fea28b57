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

from freeda.vectors import unit

__all__ = ["Spread", "Spreads", "Whitening", "evenly_taken"]

_MOST = 32_768
"""Vectors from which a spread is measured."""


def evenly_taken(rows: np.ndarray) -> np.ndarray:
    """All of (n,) rows, or as many as a spread is measured from."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST)).astype(np.int64)]


@dataclass(frozen=True)
class Spread:
    """Where unit vectors lie, and how those of one noun differ.

    mean: (D,) float64. within: (D, D) float64 covariance around the means of the nouns.
    freedom: degrees of freedom of that covariance: vectors less nouns.
    """

    mean: np.ndarray
    within: np.ndarray
    freedom: int

    @classmethod
    def of(cls, vectors: np.ndarray, nouns: np.ndarray) -> Spread | None:
        """Of (N, D) vectors and a number for the noun of each; None where no noun has two.

        Vectors that are not finite are left out.
        """
        finite = np.isfinite(vectors).all(1)
        held, nouns = unit(vectors[finite]).astype(np.float64), nouns[finite]
        _, places, counts = np.unique(nouns, return_inverse=True, return_counts=True)
        if len(held) == len(counts):
            return None
        means = np.zeros((len(counts), held.shape[1]))
        np.add.at(means, places, held)
        apart = held - (means / counts[:, None])[places]
        freedom = len(held) - len(counts)
        return cls(held.mean(0), apart.T @ apart / freedom, freedom)

    def joined(self, other: Spread, weight: float) -> Spread:
        """Both together. The other's share is `weight` where it is well known, less where it has fewer
        degrees of freedom than dimensions.
        """
        share = weight * other.freedom / (other.freedom + len(self.mean))
        mean, within = (
            (1 - share) * one + share * two
            for one, two in ((self.mean, other.mean), (self.within, other.within))
        )
        return Spread(mean, within, self.freedom + other.freedom)


@dataclass(frozen=True)
class Spreads:
    """Of an index's prototypes, and of photographs beside them; None where no noun has two."""

    ordinary: Spread | None
    own: Spread | None

    def whitening(self, shrinkage: float, own_weight: float) -> Whitening | None:
        """How visual vectors are mapped for metric "whitened"; None where no noun has two prototypes.

        own_weight: of the photographs' spread, the less the fewer there are.
        """
        known = self.ordinary or self.own
        if self.ordinary is not None and self.own is not None and own_weight:
            known = self.ordinary.joined(self.own, own_weight)
        return None if known is None else Whitening.of(known, shrinkage)


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
