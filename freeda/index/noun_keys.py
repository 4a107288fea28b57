"""The nouns of an index as text embeddings: each one's mean key.

Shapes: `n` nouns, `K` width of a key, `S` sampled prototypes of a noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from freeda.vectors import unit

__all__ = ["NounKeys", "frequent_nouns"]

_SAMPLED = 32
"""Prototypes per noun whose keys are averaged."""


class _Index(Protocol):
    @property
    def set_apart(self) -> np.ndarray: ...
    def noun_counts(self) -> dict[str, int]: ...
    def rows_by_noun(self, nouns: Sequence[str]) -> list[np.ndarray]: ...
    def keys_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class NounKeys:
    """Nouns of an index.

    names: most frequent first.
    keys: (n, K) float32, the mean key of each, of unit length.
    rows: of each, the prototypes that this is the mean of.
    """

    names: tuple[str, ...]
    keys: np.ndarray
    rows: tuple[np.ndarray, ...]


def frequent_nouns(index: _Index, most: int) -> NounKeys:
    """The most frequent nouns of an index, at most so many."""
    names = tuple(index.noun_counts())
    apart = index.set_apart  # a noun of these alone would be retrieved as others that are near to it
    held = [
        (name, found[~apart[found]]) for name, found in zip(names, index.rows_by_noun(names), strict=True)
    ]
    held = [(name, found) for name, found in held if len(found)][:most]
    names, rows = tuple(name for name, _ in held), tuple(_spread(found) for _, found in held)
    keys = index.keys_of(np.concatenate(rows))
    means = [part.mean(0) for part in np.split(keys, np.cumsum([len(some) for some in rows])[:-1])]
    return NounKeys(names, unit(np.stack(means)), rows)


def _spread(rows: np.ndarray) -> np.ndarray:
    """At most `_SAMPLED` rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLED)).astype(np.int64)]
