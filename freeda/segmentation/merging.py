"""Merging of neighbouring superpixels with similar features."""

from __future__ import annotations

import numpy as np

from freeda.records import Regions

__all__ = ["adjacency", "merge_alike"]


def merge_alike(regions: Regions, features: np.ndarray, similarity: float) -> Regions:
    """Merges the most similar pair of neighbours, again and again, while its cosine is above `similarity`.

    features: (R, D), the pooled feature of every region; a merged region has the area-weighted mean of its
        parts.
    similarity: 0 .. 1. Regions whose feature is zero or not finite are never merged.
    """
    count = len(regions)
    sums = features.astype(np.float64) * np.bincount(regions.labels.ravel())[:, None]
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    units = np.divide(sums, lengths, where=usable, out=np.zeros_like(sums))
    touching = adjacency(regions.labels, count) & usable & usable.T
    cosines = np.where(touching, units @ units.T, -np.inf)
    best = cosines.argmax(1)  # each one's most similar neighbour, so that a merge updates a few rows only
    peaks = cosines.max(1)
    owner = np.arange(count)
    while True:
        kept = int(peaks.argmax())
        gone = int(best[kept])
        if peaks[kept] <= similarity:
            break
        owner[owner == gone] = kept
        sums[kept] += sums[gone]
        units[kept] = sums[kept] / np.linalg.norm(sums[kept])
        touching[kept] |= touching[gone]
        touching[gone] = touching[:, gone] = touching[kept, kept] = False
        touching[:, kept] = touching[kept]
        near = np.flatnonzero(touching[kept])
        cosines[gone] = cosines[:, gone] = cosines[kept] = -np.inf
        cosines[kept, near] = cosines[near, kept] = units[near] @ units[kept]
        changed = np.union1d(near, np.flatnonzero((best == kept) | (best == gone)))
        best[changed], peaks[changed] = cosines[changed].argmax(1), cosines[changed].max(1)
    compact = np.unique(owner, return_inverse=True)[1]
    return Regions(compact[regions.labels].astype(np.int32), regions.filled)


def adjacency(labels: np.ndarray, count: int) -> np.ndarray:
    """(R, R) bool: which regions share a border of pixels, up, down, left or right."""
    touching = np.zeros((count, count), bool)
    for one, other in ((labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:])):
        touching[one, other] = touching[other, one] = True
    np.fill_diagonal(touching, False)
    return touching
