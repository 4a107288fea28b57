"""The keys of an index in FAISS: the kind of index for their number, and its measured recall.

Rule (`choose_factory`): up to two million keys, an exact index (`Flat`). Above, an inverted file whose cells
are found by an HNSW graph, with 8 bits per dimension (`SQ8`) while that fits into the memory allowed, else
rotated and product-quantised (`OPQ`, `PQ`) to one byte per eight dimensions. Flat reads every key for every
class; an inverted file reads a few cells, and its recall is measured.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from freeda.errors import ConfigError
from freeda.index.gpu_keys import faiss_reason, on_all_gpus, takes_gpu

__all__ = [
    "EXACT_UP_TO",
    "RECALL_AT",
    "TRAINED_PER_CELL",
    "KeyOptions",
    "build_keys",
    "check_factory",
    "choose_factory",
    "open_keys",
    "prepare_reconstruction",
    "read_header",
    "read_plain",
]

EXACT_UP_TO = 2_000_000
RECALL_AT = 350
"""Neighbours of which recall is measured: as many as FreeDA retrieves per class."""
_COMMON_DIMS = (512, 768, 1024)
"""Widths of CLIP's text embeddings. Before the models are loaded, the keys' width is not known."""
_MEMORY = 16 * 2**30
_MIN_CELLS = 64
TRAINED_PER_CELL = 64
"""Keys that an inverted file is trained on per cell: memory stays bounded."""
_QUERIES = 256
_WANTED_RECALL = 0.95
_MIN_GAIN = 0.005
"""Smallest gain in recall that is worth twice the time; where codes are coarse, more cells find no more."""
_BLOCK = 65_536
_HEADER = struct.Struct("<4siqqqBi")
"""Kind, width, number of keys, two unused numbers, whether it is trained, metric."""
_KINDS = {
    b"IxFI": "Flat",
    b"IxSQ": "SQ",
    b"IxPq": "PQ",
    b"IxPT": "a transform such as OPQ or PCA",
    b"IwFl": "IVF,Flat",
    b"IwSq": "IVF,SQ",
    b"IwPQ": "IVF,PQ",
    b"IHNf": "HNSW",
    b"IHNs": "HNSW,SQ",
}
_IN_ONE_PIECE = (b"IxFI", b"IxSQ", b"IxPq")
"""Kinds without parts, whose codes are memory-mapped."""
_PARTS = (
    *("IndexFlatIP", "IndexFlat", "IndexFlatL2", "IndexScalarQuantizer", "IndexPQ", "IndexPreTransform"),
    *("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexHNSWFlat", "IndexHNSWSQ"),
)
"""FAISS's classes of those kinds."""
_IN_CELLS = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
"""Maps cells and opens no other file, whatever the index names. The tables are for L2 distances only."""
_READING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """How keys are indexed.

    factory: FAISS's name for the kind of index; None chooses it by their number.
    device: where an inverted file is trained, and keys are assigned to its cells: "cpu", "cuda", or "auto"
        for a GPU where FAISS sees one.
    """

    factory: str | None = None
    device: str = "auto"

    def on_gpu(self) -> bool:
        """Raises `ConfigError` for an unknown device, and for "cuda" where FAISS sees no GPU."""
        return takes_gpu(self.device)


def choose_factory(count: int, dim: int, memory: int = _MEMORY) -> str:
    """FAISS's factory string for `count` keys of `dim` numbers. memory: bytes that keys may take."""
    if count <= EXACT_UP_TO and 4 * dim * count <= memory:
        return "Flat"
    cells = _cells(count)
    if dim * count <= memory:
        return f"IVF{cells}_HNSW32,SQ8"
    parts = next(number for number in range(max(1, dim // 8), 0, -1) if dim % number == 0)
    return f"OPQ{parts},IVF{cells}_HNSW32,PQ{parts}"


def check_factory(factory: str, dims: Sequence[int] = _COMMON_DIMS) -> None:
    """Raises `ConfigError` unless FAISS knows the factory for keys of one of these widths, and indexes of its
    kind can be opened.
    """
    reasons = []
    for dim in dims:
        try:
            for part in _parts(faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)):
                _require_plain(part)
            return
        except RuntimeError as error:
            reasons.append(faiss_reason(error))
    widths = " or ".join(map(str, dims))
    raise ConfigError(f"'{factory}' is no FAISS factory for {widths}-d keys: {reasons[0]}")


def build_keys(keys: np.ndarray, factory: str, path: Path, *, gpu: bool = False) -> float:
    """Builds an index over (N, K) float32 unit vectors, which may be a memory map, writes it, returns its
    recall.

    It is trained on a bounded sample and filled block by block. Of an inverted file, as many cells are
    searched as a recall of 95 % needs, at most a quarter, and no more once they gain nothing. Recall is
    measured at `RECALL_AT` on keys drawn as queries. Memory: that of the finished index.
    gpu: whether an inverted file's cells are found, and keys assigned to them, on all GPUs.
    Raises `ConfigError`, `OSError`.
    """
    index = faiss.index_factory(keys.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    cells = _inverted_file(index)
    if not index.is_trained:
        try:
            _train(index, keys, cells, gpu)
        except RuntimeError as error:
            raise ConfigError(
                f"'{factory}' cannot be trained on {len(keys):,} keys: {faiss_reason(error)}; take a smaller "
                "kind, or Flat"
            ) from error
    _add(index, keys, cells, gpu)
    recall = 1.0 if factory == "Flat" else _tune(index, keys, cells)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's way to say that a disk is full
        raise OSError(f"{path}: {str(error).splitlines()[-1]}") from error
    return recall


def open_keys(path: Path, count: int, dim: int) -> faiss.Index:
    """An index of `count` keys of `dim` numbers, memory-mapped.

    Raises `RuntimeError` where FAISS cannot read it, or its header says other than that.
    """
    kind, *held = read_header(path)
    if held != [count, dim]:
        raise RuntimeError(f"it holds {held[0]} keys of {held[1]}-d; {count} of {dim}-d are expected")
    if kind in _IN_ONE_PIECE:
        with _bounded_by(path):
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    return read_plain(path)


def read_plain(path: Path) -> faiss.Index:
    """An index of which no part lies in another file, the cells of an inverted file memory-mapped.

    Raises `RuntimeError`.
    """
    with _bounded_by(path):
        index = faiss.read_index(str(path), _IN_CELLS)
    for part in _parts(index):
        _require_plain(part)
    return index


@contextmanager
def _bounded_by(path: Path) -> Iterator[None]:
    """FAISS allocates what a file asks for: here, no list longer than the file. Its limits are global, so
    files are read one after another.
    """
    size = path.stat().st_size
    with _READING:
        limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(limits[0])
            faiss.set_deserialization_loop_limit(limits[1])


def _parts(index: faiss.Index) -> Iterator[faiss.Index]:
    """An index and those that it is made of."""
    found: Any = faiss.downcast_index(index)
    yield found
    for name in ("index", "quantizer", "storage"):
        inner = getattr(found, name, None)
        if isinstance(inner, faiss.Index):
            yield from _parts(inner)


def _require_plain(index: Any) -> None:
    """Raises `RuntimeError` for a part of an index of a kind not listed, or whose data lies elsewhere."""
    if type(index).__name__ not in _PARTS:
        raise RuntimeError(f"a part of it is of the kind {type(index).__name__}")
    if isinstance(index, faiss.IndexIVF):
        cells: Any = faiss.downcast_InvertedLists(index.invlists)  # type: ignore[arg-type]
        if isinstance(cells, faiss.OnDiskInvertedLists) and cells.ptr is None:
            raise RuntimeError("its cells lie in another file")


def read_header(path: Path) -> tuple[bytes, int, int]:
    """The kind of index that a file says it is, how many keys it holds, and their width.

    Raises `RuntimeError` for a file of another kind or metric, or of another size than its keys take.
    """
    if not path.is_file():
        raise RuntimeError("it is no file")
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise RuntimeError(f"it has {len(header)} bytes")
    kind, dim, count, _, _, _, metric = _HEADER.unpack(header)
    if kind not in _KINDS:
        raise RuntimeError(f"its kind {kind!r} is not one of {', '.join(_KINDS.values())}")
    if metric != faiss.METRIC_INNER_PRODUCT:
        raise RuntimeError("it does not compare by inner product")
    if kind == b"IxFI" and path.stat().st_size != _HEADER.size + 8 + 4 * dim * count:
        raise RuntimeError(f"it has {path.stat().st_size} bytes, too few or too many for its keys")
    return kind, count, dim


def prepare_reconstruction(index: faiss.Index) -> None:
    """Makes the keys of an inverted file readable by row; takes 8 bytes per key, once."""
    cells = _inverted_file(index)
    if cells is not None and cells.direct_map.no():
        cells.make_direct_map()


def _cells(count: int) -> int:
    """About four times the root of the count, a power of two."""
    return int(max(_MIN_CELLS, 2 ** round(np.log2(4 * np.sqrt(count)))))


def _inverted_file(index: faiss.Index) -> faiss.IndexIVF | None:
    return faiss.try_extract_index_ivf(index)


def _train(index: faiss.Index, keys: np.ndarray, cells: faiss.IndexIVF | None, gpu: bool) -> None:
    per_cell = (cells.nlist if cells is not None else 256) * TRAINED_PER_CELL
    count = min(len(keys), max(per_cell, _BLOCK))
    rows = np.sort(np.random.default_rng(0).choice(len(keys), count, replace=False))
    if gpu and cells is not None:
        cells.clustering_index = on_all_gpus(faiss.IndexFlatIP(cells.d))
    index.train(np.ascontiguousarray(keys[rows]))


def _add(index: faiss.Index, keys: np.ndarray, cells: faiss.IndexIVF | None, gpu: bool) -> None:
    add = _cell_filler(index, cells) if gpu and cells is not None else index.add
    for start in range(0, len(keys), _BLOCK):
        add(np.ascontiguousarray(keys[start : start + _BLOCK]))


def _cell_filler(index: Any, cells: faiss.IndexIVF) -> Callable[[np.ndarray], None]:
    """Adds keys to the cells of their nearest centroids: GPUs find these, the CPU encodes the keys."""
    flat = faiss.IndexFlatIP(cells.d)
    flat.add(cells.quantizer.reconstruct_n(0, cells.nlist))
    centroids = on_all_gpus(flat)
    transforms = [index.chain.at(n) for n in range(index.chain.size())] if hasattr(index, "chain") else []

    def add(block: np.ndarray) -> None:
        for transform in transforms:  # OPQ and its like
            block = faiss.downcast_VectorTransform(transform).apply(block)
        nearest = np.ascontiguousarray(centroids.search(block, 1)[1].ravel())
        cells.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(nearest))
        index.ntotal = cells.ntotal

    return add


def _tune(index: faiss.Index, keys: np.ndarray, cells: faiss.IndexIVF | None) -> float:
    rows = np.sort(np.random.default_rng(1).choice(len(keys), min(_QUERIES, len(keys)), replace=False))
    queries = np.ascontiguousarray(keys[rows])
    near = min(RECALL_AT, len(keys))
    exact = _exact(keys, queries, near)
    if cells is None:
        return _recall(index, queries, exact)
    cells.nprobe, recall = 1, 0.0
    while True:
        before, recall = recall, _recall(index, queries, exact)
        if recall >= _WANTED_RECALL or recall - before < _MIN_GAIN or cells.nprobe * 8 > cells.nlist:
            return recall
        cells.nprobe *= 2


def _recall(index: faiss.Index, queries: np.ndarray, exact: np.ndarray) -> float:
    found = index.search(queries, exact.shape[1])[1]
    hits = [len(np.intersect1d(one, other)) for one, other in zip(found, exact, strict=True)]
    return float(np.mean(hits) / exact.shape[1])


def _exact(keys: np.ndarray, queries: np.ndarray, near: int) -> np.ndarray:
    """(Q, near) rows, searched block by block."""
    best = faiss.ResultHeap(len(queries), near, keep_max=True)
    for start in range(0, len(keys), _BLOCK):
        block = np.ascontiguousarray(keys[start : start + _BLOCK])
        similarities, rows = faiss.knn(queries, block, min(near, len(block)), faiss.METRIC_INNER_PRODUCT)
        best.add_result(similarities, rows + start)
    best.finalize()
    return np.asarray(best.I)
