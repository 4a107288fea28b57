"""Vectors of unit length: cosines are inner products of these."""

from __future__ import annotations

import numpy as np

__all__ = ["unit"]


def unit(vectors: np.ndarray) -> np.ndarray:
    """(..., D) float32 vectors of length 1 along the last axis; zero vectors stay zero."""
    # Of a single vector numpy takes another, equally exact way to the norm: its bits are in built indexes.
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.ndim > 1 else np.linalg.norm(vectors)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), np.float32)
