"""How visual vectors of one noun differ, which whitening divides them by.

Shapes: `N` vectors, `D` their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from freeda.vectors import unit

__all__ = ["Spread", "Spreads", "evenly_taken"]

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

    def joined(self, own_weight: float) -> Spread | None:
        """Both together, where there are both.

        own_weight: of the photographs' spread, the less the fewer there are.
        """
        if self.ordinary is not None and self.own is not None and own_weight:
            return self.ordinary.joined(self.own, own_weight)
        return self.ordinary or self.own
