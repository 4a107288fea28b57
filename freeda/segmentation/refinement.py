"""Refinement by the pixels around (PAMR), of the classes that can win.

Shapes: `C` classes, `K` of them that can win, `N` rows of scores, `h w` pixels at the working size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from freeda.segmentation.cells import WindowParts
from freeda.segmentation.pamr import pamr
from freeda.segmentation.score_maps import DenseScores

__all__ = ["contenders", "refined"]

_RANKS = 3
"""A class can win that is among so many best of a region. `benchmarks/toy_variants.py` counts the pixels
that would have another label if all classes were refined.
"""


def contenders(windows: Sequence[WindowParts], groups: Sequence[slice], ranks: int = _RANKS) -> list[int]:
    """The classes that are among the `ranks` best of their group in any row of scores, ascending.

    groups: the classes, and what the background is made of; each is ranked by itself.
    """
    found: set[int] = set()
    for window in windows:
        for group in groups:
            scores = window.rows[:, group]
            best = np.argsort(-scores, axis=1, kind="stable")[:, :ranks]
            found.update((np.unique(best) + group.start).tolist())
    return sorted(found)


def refined(
    windows: Sequence[WindowParts],
    image: torch.Tensor,
    classes: Sequence[int],
    iterations: int,
    device: torch.device,
) -> DenseScores:
    """The mean over the windows of the refined scores of some classes.

    image: (3, h, w) float32 RGB in [0, 1].
    """
    sums, visits = torch.zeros(len(classes), *image.shape[-2:]), torch.zeros(image.shape[-2:])
    for window in windows:
        scores = window.paint(classes).to(device)
        sums[(..., *window.area)] += pamr(scores, image[(..., *window.area)].to(device), iterations).cpu()
        visits[window.area] += 1
    return DenseScores(sums / visits, classes, windows[0].rows.shape[1])
