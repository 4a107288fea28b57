"""Points that stand for classes (FlowSeg's Kronecker centroids, and others to compare with).

Shapes: `N` classes, `D` dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from freeda.methods.flowseg.settings import Centroids

__all__ = ["place_centroids", "project_texts", "smallest_gap"]


def place_centroids(kind: Centroids, count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32 in [-1, 1], of any kind but "text".

    "kronecker": class k at the fractional parts of k times the square roots of the first primes; "golden": of
    k times powers of the generalised golden ratio, which fill space more evenly; "random": uniform, by the
    seed. Each axis is stretched to [-1, 1]. Values are rounded to half precision, in which weights are kept.
    """
    if kind == "random":
        points = np.random.default_rng(seed).random((count, dimensions))
    else:
        steps = _prime_roots(dimensions) if kind == "kronecker" else _golden_powers(dimensions)
        points = np.arange(1, count + 1)[:, None] * np.array(steps) % 1
    low, span = points.min(0), np.ptp(points, 0)
    stretched = 2 * (points - low) / np.where(span > 0, span, 1) - (span > 0)
    return stretched.astype(np.float16).astype(np.float32)


def project_texts(texts: np.ndarray, mean: np.ndarray, dimensions: int) -> np.ndarray:
    """(N, D) float32 of unit length on average, of (N, K) CLIP embeddings: less their mean in training, which
    all class names share, then through a fixed random projection.
    """
    centred = texts - mean
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6
    width = texts.shape[1]
    basis = np.random.default_rng(0).standard_normal((width, dimensions)) / math.sqrt(dimensions)
    return (centred @ basis).astype(np.float16).astype(np.float32)


def smallest_gap(centroids: np.ndarray) -> float:
    """The least distance of two centroids."""
    points = torch.from_numpy(centroids)
    return float(torch.nn.functional.pdist(points).min())


def _prime_roots(count: int) -> list[float]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return [math.sqrt(prime) for prime in primes]


def _golden_powers(count: int) -> list[float]:
    """1 / g, 1 / g^2, ..., where g^(count + 1) = g + 1."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (count + 1))
    return list(_powers(1 / ratio, count))


def _powers(base: float, count: int) -> Iterator[float]:
    return (base**power for power in range(1, count + 1))
