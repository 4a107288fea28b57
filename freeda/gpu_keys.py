"""Keys on a GPU, searched as FAISS's own indexes are."""

from __future__ import annotations

import threading

import faiss
import numpy as np

from freeda.errors import ConfigError

__all__ = ["GpuKeys"]


class GpuKeys:
    """A FAISS index copied to the first GPU. FAISS's GPU indexes and their resources serve one thread at a
    time, even to read, so every thread that searches has its own copy.
    """

    def __init__(self, keys: faiss.Index) -> None:
        """Raises `ConfigError` where FAISS sees no GPU."""
        if not faiss.get_num_gpus():
            raise ConfigError(
                "FAISS sees no GPU to search keys on; open the index without gpu=True, or install faiss-gpu"
            )
        self._keys = keys
        self._own = threading.local()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k (at most 2,048) nearest keys of (C, K) queries: similarities and rows."""
        if not hasattr(self._own, "copy"):
            options = faiss.GpuClonerOptions()
            options.allowCpuCoarseQuantizer = True  # an inverted file's cells are found by an HNSW graph
            self._own.resources = faiss.StandardGpuResources()
            self._own.copy = faiss.index_cpu_to_gpu(self._own.resources, 0, self._keys, options)
        similarities, rows = self._own.copy.search(queries, k)
        return similarities, rows
