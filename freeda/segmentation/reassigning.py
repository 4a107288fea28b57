"""Superpixels that merging by features gave to the wrong region go to one beside it whose colours they have.

A token of the backbone is larger than most superpixels: those of the ground at the edge of a thing have part
of the thing's features, and are merged with it. Their colours tell them from it. As in GrabCut (Rother et al.
2004), each region's colours are learnt from what belongs to it most surely, superpixels are assigned anew,
and so on.

Shapes: `S` superpixels, `R` regions, `D` width of a dense feature.
"""

from __future__ import annotations

import cv2
import numpy as np

from freeda.records import Regions
from freeda.segmentation.merging import adjacency
from freeda.vectors import unit

__all__ = ["mean_colors", "reassign"]

_ROUNDS = 3
_CORE = 0.7
"""Share of a region's area, the one most similar to its mean feature, from which its colours are learnt."""
_COLOR_WIDTH = 0.1
"""Of the kernel by which colours are alike; 1 is the distance from black to white."""
_RAREST = 0.01
"""Added to a region's share of a superpixel's colour: a colour that is not there has a finite cost."""


def mean_colors(window: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(S, 3): the mean CIELAB colour, in hundredths, of each of (H, W) labels.

    window: (H, W, 3) RGB in [0, 1].
    """
    colors = cv2.cvtColor(np.ascontiguousarray(window, np.float32), cv2.COLOR_RGB2LAB) / 100
    flat, areas = labels.ravel(), np.bincount(labels.ravel())
    sums = [np.bincount(flat, colors[..., channel].ravel()) for channel in range(3)]
    return np.stack(sums, 1) / areas[:, None]


def reassign(
    superpixels: Regions, merged: Regions, features: np.ndarray, colors: np.ndarray, weight: float
) -> Regions:
    """Moves superpixels to the region beside them, or keeps them in their own, by the highest score: the
    cosine of their features, plus `weight` times the logarithm of the region's share that has their colour.

    merged: unions of superpixels. features: (S, D). colors: (S, 3), as `mean_colors` gives them.
    Regions that lose all their superpixels vanish: a single superpixel has no witness of its colour.
    """
    areas = np.bincount(superpixels.labels.ravel()).astype(float)
    first = np.unique(superpixels.labels, return_index=True)[1]
    owner = merged.labels.ravel()[first]
    units = unit(np.nan_to_num(features.astype(np.float64), posinf=0, neginf=0))
    alike = _likeness(colors)
    near = adjacency(superpixels.labels, len(areas))
    for _ in range(_ROUNDS):
        members = (owner[:, None] == np.arange(owner.max() + 1)).astype(float)
        means = unit((members * areas[:, None]).T @ units)
        cosines = units @ means.T
        cores = _cores(owner, cosines[np.arange(len(owner)), owner], areas)
        learnt = members * (areas * cores)[:, None]
        shares = alike @ learnt / np.maximum(learnt.sum(0), 1)
        scores = cosines + weight * np.log(shares + _RAREST)
        scores[(near @ members + members) == 0] = -np.inf
        best = scores.argmax(1)
        if (best == owner).all():
            break
        owner = best
    compact = np.unique(owner, return_inverse=True)[1]
    return Regions(compact[superpixels.labels].astype(np.int32), merged.filled)


def _likeness(colors: np.ndarray) -> np.ndarray:
    """(S, S), 0 .. 1: how alike colours are; 0 for a superpixel and itself, which is no witness."""
    squares = (colors**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * colors @ colors.T, 0)
    alike = np.exp(-distances / (2 * _COLOR_WIDTH**2))
    np.fill_diagonal(alike, 0)
    return alike


def _cores(owner: np.ndarray, similarity: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(S,) bool: the superpixels of each region that are most similar to it, up to a share of its area."""
    core = np.zeros(len(owner), bool)
    order = np.lexsort((-similarity, owner))
    starts = np.flatnonzero(np.r_[True, np.diff(owner[order]) > 0])
    for members in np.split(order, starts[1:]):
        reached = np.cumsum(areas[members])
        core[members[: 1 + np.searchsorted(reached, _CORE * reached[-1])]] = True
    return core
