"""The prototypes behind a class: its nearest keys, all that tie with the last of them, and their mean.

Keys made from a template are the same for all prototypes of a noun, so that k nearest keys end in the middle
of a noun. Which of its prototypes come first is chance: the order of captions, of a merge. So all of them are
taken; of very many, a sample by their ids.

Shapes: `C` classes, `K` width of a key, `D` width of a visual vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from freeda.caching import BoundedCache
from freeda.errors import IndexCorruptError
from freeda.records import ClassPrototypes
from freeda.vectors import unit

__all__ = ["ClassRetrieval", "Searchable"]

_REMEMBERED_BYTES = 64 * 2**20
"""What is kept of the latest classes: about 8,000 of 350 prototypes and 768-d vectors."""
_TIE = 1e-6
"""Similarities that differ by less are equal but for rounding."""
_BEYOND = 64
"""Neighbours beyond the k-th that are searched too: where similarities tie by chance, the tie ends there."""
_BLOCK = 16_384
"""Keys that are compared at once."""
_MOST_TIED = 4096
"""Prototypes per class; more are sampled, for their mean does not change any more."""


class Searchable(Protocol):
    """What retrieval needs of an index."""

    @property
    def set_apart(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...
    def keys_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...
    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...
    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]: ...
    def rows_of_same_nouns(self, rows: Sequence[int] | np.ndarray) -> np.ndarray: ...


_Asked = tuple[bytes, int, float]


@dataclass(frozen=True)
class _Neighborhood:
    """One class's (D,) prototype, and the rows and similarities of all its neighbours.

    near: which of these are shown as behind the class: those that the prototype is the mean of, and damaged
        ones.
    """

    vector: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray
    near: np.ndarray


def _bytes(item: _Neighborhood) -> int:
    return sum(part.nbytes for part in (item.vector, item.rows, item.similarities, item.near))


class ClassRetrieval:
    """Retrieves class prototypes, and keeps the latest. Any number of threads may ask at once."""

    def __init__(self, index: Searchable, name: str) -> None:
        """name: of the index, for errors."""
        self._index, self._name = index, name
        self._known = BoundedCache[_Asked, _Neighborhood](_REMEMBERED_BYTES, _bytes)

    def __call__(self, queries: np.ndarray, k: int, margin: float) -> ClassPrototypes:
        """As `PrototypeIndex.class_prototypes`."""
        names = [(hashlib.sha256(query).digest(), k, margin) for query in queries]
        found = self._known.find(names)
        new = {name: number for number, name in enumerate(names) if name not in found}
        if new:
            chosen = queries[list(new.values())]
            similarities, rows = self._search(chosen, k + _BEYOND)
            for name, query, near, values in zip(new, chosen, rows, similarities, strict=True):
                found[name] = self._neighborhood(*self._with_ties(query, near, values, k), margin)
            self._known.keep({name: found[name] for name in new})
        return _stacked([found[name] for name in names])

    def _search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the `count` nearest prototypes that are not set apart; -1 for none."""
        apart, found = self._index.set_apart, min(count, len(self._index))
        while True:
            similarities, rows = self._index.search(queries, found)
            kept = (rows >= 0) & ~apart[rows]
            exhausted = rows[:, -1] < 0  # an approximate index looks at a part of its keys
            if found == len(apart) or (exhausted | (kept.sum(1) >= count)).all():
                break
            found = min(2 * found, len(apart))
        order = np.argsort(~kept, 1, kind="stable")[:, :count]
        rows = np.where(kept, rows, -1)
        return np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1)

    def _with_ties(
        self, query: np.ndarray, rows: np.ndarray, similarities: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of more rows and their similarities, with all that tie with the last of them."""
        if len(rows) <= k or rows[k] < 0 or similarities[k] < similarities[k - 1] - _TIE:
            kept = rows[:k] >= 0
            return rows[:k][kept], similarities[:k][kept]
        last = similarities[k - 1]
        above = similarities[:k] > last + _TIE
        tied = rows[(rows >= 0) & (np.abs(similarities - last) <= _TIE)]
        if rows[-1] >= 0 and similarities[-1] >= last - _TIE and len(rows) < len(self._index):
            others = np.setdiff1d(self._index.rows_of_same_nouns(tied), rows[:k][above])
            others = others[~self._index.set_apart[others]]
            tied = self._with_similarity(others, query, last)
        tied = self._sample(tied, max(k, _MOST_TIED) - int(above.sum()))
        taken = np.concatenate([rows[:k][above], tied])
        return taken, np.concatenate([similarities[:k][above], np.full(len(tied), last, np.float32)])

    def _with_similarity(self, rows: np.ndarray, query: np.ndarray, wanted: float) -> np.ndarray:
        """Those of some rows whose keys have that similarity to a query."""
        parts = np.split(rows, range(_BLOCK, len(rows), _BLOCK))
        found = [part[np.abs(self._index.keys_of(part) @ query - wanted) <= _TIE] for part in parts]
        return np.concatenate(found)

    def _sample(self, rows: np.ndarray, count: int) -> np.ndarray:
        """At most so many rows, in an order that depends on their prototypes' ids only."""
        digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in self._index.ids(rows)]
        return rows[sorted(range(len(rows)), key=digests.__getitem__)[:count]]

    def _neighborhood(self, rows: np.ndarray, similarities: np.ndarray, margin: float) -> _Neighborhood:
        vectors = self._index.vectors(rows)
        finite = np.isfinite(vectors).all(1)
        if not finite.any():
            raise IndexCorruptError(
                f"index '{self._name}' has no finite vector among the nearest; rebuild it"
            )
        near = finite & (similarities >= similarities[finite].max() - margin)
        return _Neighborhood(unit(vectors[near].mean(0)), rows, similarities, near | ~finite)


def _stacked(found: Sequence[_Neighborhood]) -> ClassPrototypes:
    most = max(len(item.rows) for item in found)
    rows = np.full((len(found), most), -1, np.int64)
    similarities = np.full((len(found), most), -np.inf, np.float32)
    for number, item in enumerate(found):
        rows[number, : len(item.rows)] = np.where(item.near, item.rows, -1)
        similarities[number, : len(item.rows)] = item.similarities
    return ClassPrototypes(np.stack([item.vector for item in found]), rows, similarities)
