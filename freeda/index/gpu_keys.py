"""Keys that are searched on a GPU."""

from __future__ import annotations

import re
import threading
import warnings
from typing import Any

import faiss
import numpy as np

from freeda.errors import ConfigError

__all__ = ["GpuKeys", "faiss_reason", "gpus", "on_all_gpus", "takes_gpu"]


def gpus() -> int:
    """How many GPUs FAISS sees."""
    return int(faiss.get_num_gpus())


def takes_gpu(index_device: str) -> bool:
    """Whether keys go to a GPU: as asked for, or for "auto" where FAISS sees a GPU.

    Raises `ConfigError` for another device, and for "cuda" where FAISS sees no GPU.
    """
    if index_device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"index_device is {index_device!r}; expected auto, cpu or cuda")
    if index_device == "auto":
        return gpus() > 0
    if index_device == "cuda" and not gpus():
        raise ConfigError("FAISS sees no GPU for the keys; take --index-device cpu, or install faiss-gpu")
    return index_device == "cuda"


def on_all_gpus(index: faiss.Index) -> Any:
    """An index spread over all GPUs."""
    return faiss.index_cpu_to_all_gpus(index)


def faiss_reason(error: RuntimeError) -> str:
    """What went wrong, without the function, file and line of FAISS's source."""
    return re.sub(r"^Error in .* at \S+:\d+: (Error: )?", "", str(error).splitlines()[0])


class GpuKeys:
    """A FAISS index on the first GPU, with the `search` of FAISS's own indexes.

    FAISS's GPU indexes serve one thread at a time, even to read, so every thread that searches makes a copy.
    """

    def __init__(self, keys: faiss.Index, *, required: bool = True) -> None:
        """required: whether what a GPU does not take is an error; else the CPU searches it, with a warning.

        Raises `ConfigError` where FAISS sees no GPU.
        """
        takes_gpu("cuda")
        self._keys, self._required = keys, required
        self._own = threading.local()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest keys of (C, K) queries: similarities and rows.

        A GPU gives at most 2,048, of some kinds of indexes, as far as its memory goes. Raises `ConfigError`
        for what it does not take, where a GPU is required.
        """
        try:
            if not hasattr(self._own, "copy"):
                self._own.resources = faiss.StandardGpuResources()
                self._own.copy = self._copy(self._own.resources)
            similarities, rows = self._own.copy.search(queries, k)
        except RuntimeError as error:
            why = f"the keys cannot be searched on a GPU: {faiss_reason(error)}"
            if self._required:
                raise ConfigError(f"{why}; take --index-device cpu") from error
            warnings.warn(f"{why}; the CPU searches them", stacklevel=2)
            found: tuple[np.ndarray, np.ndarray] = self._keys.search(queries, k)
            return found
        return similarities, rows

    def _copy(self, resources: Any) -> faiss.Index:
        options = faiss.GpuClonerOptions()
        options.allowCpuCoarseQuantizer = True  # an inverted file's cells are found by an HNSW graph
        return faiss.index_cpu_to_gpu(resources, 0, self._keys, options)
