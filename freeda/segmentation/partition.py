"""A partition of a window into regions, from masks that overlap and leave gaps."""

from __future__ import annotations

import numpy as np

from freeda.records import Regions

__all__ = ["partition"]


def partition(masks: np.ndarray, gaps: np.ndarray) -> Regions:
    """Each pixel belongs to the smallest mask that holds it: a part lies on its whole.

    masks: (N, H, W) bool, of equal right; of two as large as one another, the later one has the pixel.
    gaps: (H, W) int, regions by another way, 0 .. R - 1, for the pixels that no mask holds.
    """
    owner = np.full(gaps.shape, -1, np.int64)
    for number in np.argsort(-masks.sum((1, 2)), kind="stable"):
        owner[masks[number]] = number
    labels = np.where(owner >= 0, owner, len(masks) + gaps)
    present, compact = np.unique(labels, return_inverse=True)
    filled = int((present >= len(masks)).sum())
    return Regions(compact.reshape(gaps.shape).astype(np.int32), filled)
