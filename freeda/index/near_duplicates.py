"""Near-duplicates by cosine; the first of each is kept."""

from __future__ import annotations

import numpy as np

__all__ = ["near_duplicates"]

_CHUNK, _KEPT_CHUNK = 1024, 16_384


def near_duplicates(*spaces: np.ndarray, similarity: float) -> np.ndarray:
    """(N,) bool: which rows repeat an earlier row that is kept.

    spaces: (N, D) float32 unit vectors each. Two rows are duplicates where their cosine is at least
        `similarity` in every space; a row that is left out makes no other a repeat.
    Memory: blocks of 1,024 rows against 16,384 kept ones.
    """
    repeats = np.zeros(len(spaces[0]), bool)
    for start in range(0, len(repeats), _CHUNK):
        stop = min(start + _CHUNK, len(repeats))
        kept = np.flatnonzero(~repeats[:start])
        for first in range(0, len(kept), _KEPT_CHUNK):
            some = kept[first : first + _KEPT_CHUNK]
            repeats[start:stop] |= _alike(spaces, slice(start, stop), some, similarity).any(1)
        among = _alike(spaces, slice(start, stop), slice(start, stop), similarity)
        for row in range(start, stop):
            before = among[row - start, : row - start]
            repeats[row] |= bool((before & ~repeats[start:row]).any())
    return repeats


def _alike(
    spaces: tuple[np.ndarray, ...], rows: slice, others: slice | np.ndarray, similarity: float
) -> np.ndarray:
    alike = [space[rows] @ space[others].T >= similarity for space in spaces]
    return np.asarray(np.logical_and.reduce(alike))
