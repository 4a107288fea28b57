"""The prototype index: a folder of keys (FAISS), prototypes (memory-mapped Arrow) and a manifest.

Shapes: `C` classes, `K` width of a key, `N` prototypes, `D` width of a visual vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freeda.errors import IndexCorruptError, IndexMismatchError
from freeda.index.finding import find_index
from freeda.index.format import (
    KEYS,
    MANIFEST,
    REJECTS,
    ROWS_PER_BATCH,
    Manifest,
    check_files,
    open_prototypes,
    read_manifest,
    read_rejects,
)
from freeda.index.gpu_keys import GpuKeys, takes_gpu
from freeda.index.keys import open_keys, prepare_reconstruction
from freeda.index.retrieval import ClassRetrieval
from freeda.index.sharing.fetched import Source, read_source
from freeda.index.spread import Spread, Spreads, evenly_taken
from freeda.presets.settings import Preset
from freeda.presets.toml import preset_from_dict
from freeda.records import GENERATED, PHOTOGRAPH, ClassPrototypes, Prototype
from freeda.vectors import unit

__all__ = ["PrototypeIndex"]

_VERIFY_ON_OPEN_BYTES = 128 * 2**20


class PrototypeIndex:
    """An open index. Keys are searched by FAISS; keys and vectors stay on disk, memory-mapped."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._class_retrieval = ClassRetrieval(self, folder.name)
        self._reconstruction = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens the same folder."""
        return type(self), (self.folder, self.manifest)

    @classmethod
    def open(cls, name: str | Path, *, verify: bool | None = None, device: str = "cpu") -> PrototypeIndex:
        """Opens an index by name, folder or address (`hf://...`, `https://...`).

        verify: whether to check every file's digest. None does so for up to 128 MiB, which takes no time, and
            checks names and sizes only for more.
        device: where keys are searched: "cpu", "cuda", or "auto" for a GPU where FAISS sees one that takes
            them. Each thread copies them to the GPU, which pays with thousands of classes.
        Raises `IndexNotFoundError`, `IndexCorruptError`, `RemoteError`, and `ConfigError` for "cuda" without
        a GPU.
        """
        folder = find_index(name)
        manifest = read_manifest(folder)
        small = sum(manifest.sizes.values()) <= _VERIFY_ON_OPEN_BYTES
        check_files(folder, manifest, digests=small if verify is None else verify)
        index = cls(folder, manifest)
        if takes_gpu(device):
            index._searched = GpuKeys(index.keys, required=device == "cuda")
        return index

    def read_everything(self) -> None:
        """Opens and reads every file; raises `IndexCorruptError` for one that is not what it should be."""
        _ = self.preset
        for rows in range(0, len(self), ROWS_PER_BATCH):
            self.keys_of(range(rows, min(rows + ROWS_PER_BATCH, len(self))))
        self.noun_counts()
        self.source_counts()
        self.rejects()

    def __len__(self) -> int:
        return self.manifest.prototypes

    @property
    def source(self) -> Source | None:
        """The address that the index was fetched from; None for one of this machine."""
        return read_source(self.folder)

    @property
    def preset(self) -> Preset:
        """The preset the index was built with."""
        return preset_from_dict(self.manifest.preset, str(self.folder / MANIFEST))

    def require_models(self, **fingerprints: str) -> None:
        """Raises `IndexMismatchError` unless the models given (`clip=...`) are those of the build."""
        for kind, found in fingerprints.items():
            expected = self.manifest.fingerprints[kind]
            if found != expected:
                raise IndexMismatchError(
                    f"index '{self.folder.name}' was built with another {kind} model (weights "
                    f"{expected}) than the one given ({found}); use preset "
                    f"'{self.manifest.preset['name']}' with the same weights, or rebuild the index"
                )

    @cached_property
    def keys(self) -> faiss.Index:
        try:
            return open_keys(self.folder / KEYS, len(self), self.manifest.key_dim)
        except (RuntimeError, MemoryError) as error:  # FAISS allocates what a damaged header asks for
            raise self._damaged_keys(str(error)) from error

    def _damaged_keys(self, why: str) -> IndexCorruptError:
        return IndexCorruptError(
            f"{self.folder / KEYS} cannot be read by faiss: {why}; restore or rebuild the index"
        )

    @cached_property
    def _searched(self) -> faiss.Index | GpuKeys:
        return self.keys

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return open_prototypes(self.folder, self.manifest)

    @cached_property
    def _vector_views(self) -> list[np.ndarray]:
        return [
            batch.column("vector").flatten().to_numpy(zero_copy_only=True).reshape(len(batch), -1)
            for batch in self._batches
        ]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest keys of (C, K) unit queries: (C, k) similarities and (C, k) rows, -1 for none."""
        if queries.shape[1] != self.manifest.key_dim:
            raise IndexMismatchError(
                f"index '{self.folder.name}' holds {self.manifest.key_dim}-d keys but the text model "
                f"gives {queries.shape[1]}-d; use the preset it was built with"
            )
        try:
            similarities, rows = self._searched.search(np.ascontiguousarray(queries, np.float32), k)
        except RuntimeError as error:
            raise self._damaged_keys(str(error)) from error
        if (rows >= len(self)).any() or (rows < -1).any():
            raise self._damaged_keys(f"it finds rows beyond its {len(self):,} prototypes")
        return similarities, rows

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(rows), D) float32 raw visual vectors, read from the memory map."""
        numbers = _require_rows(rows)
        taken = np.empty((len(numbers), self.manifest.vector_dim), np.float32)
        owners, offsets = np.divmod(numbers, ROWS_PER_BATCH)
        order = np.argsort(numbers, kind="stable")
        for run in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
            if len(run):
                taken[run] = self._vector_views[owners[run[0]]][offsets[run]]
        return taken

    def keys_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(rows), K) float32 keys, as FAISS holds them: a compressed index gives them back nearly."""
        numbers = _require_rows(rows)
        try:
            with self._reconstruction:
                prepare_reconstruction(self.keys)
            return np.asarray(self.keys.reconstruct_batch(numbers), np.float32)
        except RuntimeError as error:
            raise self._damaged_keys(str(error)) from error

    @cached_property
    def _visual_search(self) -> tuple[faiss.Index, np.ndarray]:
        """A search index of all finite visual vectors, of unit length and in half precision, and the row of
        each.

        Memory: as much as `prototypes.arrow` takes on disk.
        """
        found = faiss.IndexScalarQuantizer(
            self.manifest.vector_dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        finite = [np.isfinite(view).all(1) for view in self._vector_views]
        for view, kept in zip(self._vector_views, finite, strict=True):
            found.add(unit(view[kept].astype(np.float32)))
        return found, np.flatnonzero(np.concatenate(finite))

    def search_vectors(self, features: np.ndarray, k: int) -> np.ndarray:
        """(R, k) rows of the prototypes whose visual vectors are nearest to (R, D) features, by cosine.

        k is at most the number of prototypes. A feature that is not finite finds nothing: -1. Vectors that
        are not finite are never found. The first call reads all others into memory.
        """
        searched, rows = self._visual_search
        found = np.full((len(features), min(k, len(rows))), -1, np.int64)
        finite = np.isfinite(features).all(1)
        if finite.any():
            found[finite] = rows[searched.search(unit(features[finite]), found.shape[1])[1]]
        return found

    @cached_property
    def spreads(self) -> Spreads:
        """How visual vectors of one noun differ: of prototypes not `set_apart`, and of those that are."""
        ordinary, own = (evenly_taken(np.flatnonzero(chosen)) for chosen in (~self.set_apart, self.set_apart))
        parts = (Spread.of(self.vectors(rows), self._noun_codes[rows]) for rows in (ordinary, own))
        return Spreads(*parts)

    def mean_keys(self, rows: np.ndarray) -> np.ndarray:
        """(R, K) float32: the mean key of each line of (R, k) rows; NaN for a line that holds a -1."""
        means = np.full((len(rows), self.manifest.key_dim), np.nan, np.float32)
        whole = (rows >= 0).all(1)
        if whole.any():
            means[whole] = (
                self.keys_of(rows[whole].ravel()).reshape(-1, rows.shape[1], means.shape[1]).mean(1)
            )
        return means

    def rows(self, numbers: Sequence[int] | np.ndarray, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The given columns of some prototypes, one dict per prototype."""
        return [
            {
                name: self._batches[n // ROWS_PER_BATCH].column(name)[n % ROWS_PER_BATCH].as_py()
                for name in columns
            }
            for n in (int(number) for number in numbers)
        ]

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The ids of some prototypes."""
        return [row["id"] for row in self.rows(rows, ["id"])]

    def rows_of_same_nouns(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n,) rows, ascending, of all prototypes whose noun is that of one of some prototypes."""
        wanted = np.unique(self._noun_codes[_require_rows(rows)])
        return np.flatnonzero(np.isin(self._noun_codes, wanted))

    def rows_by_noun(self, nouns: Sequence[str]) -> list[np.ndarray]:
        """The rows, ascending, of each noun's prototypes."""
        places = {noun: place for place, noun in enumerate(self._nouns.dictionary.to_pylist())}
        wanted = np.array([places[noun] for noun in nouns])
        order = np.argsort(self._noun_codes, kind="stable")
        ordered = self._noun_codes[order]
        bounds = zip(np.searchsorted(ordered, wanted), np.searchsorted(ordered, wanted + 1), strict=True)
        return [order[first:last] for first, last in bounds]

    @cached_property
    def _nouns(self) -> pa.DictionaryArray:
        """The noun of every prototype."""
        nouns = pa.chunked_array([batch.column("noun") for batch in self._batches])
        return nouns.combine_chunks().dictionary_encode()

    @cached_property
    def _noun_codes(self) -> np.ndarray:
        """(N,) int32: a number for the noun of every prototype."""
        return np.asarray(self._nouns.indices)

    def nouns_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) str: the nouns of (n,) rows."""
        return np.array(self._nouns.dictionary.to_pylist(), np.str_)[self._noun_codes[rows]]

    @cached_property
    def _from_photographs(self) -> np.ndarray:
        """(N,) bool: which prototypes are of photographs."""
        if self.manifest.format < 3:
            return np.zeros(len(self), bool)
        sources = pa.chunked_array([batch.column("source") for batch in self._batches])
        if not pc.all(pc.is_in(sources, pa.array([GENERATED, PHOTOGRAPH]))).as_py():
            raise IndexCorruptError(
                f"{self.folder} holds prototypes of an unknown source; restore or rebuild the index"
            )
        return np.asarray(pc.equal(sources, PHOTOGRAPH).to_numpy())

    @cached_property
    def set_apart(self) -> np.ndarray:
        """(N,) bool: prototypes of photographs, which serve the classes of their nouns alone. None where the
        index holds nothing else: there they are retrieved like all others.
        """
        photographs = self._from_photographs
        return np.zeros_like(photographs) if photographs.all() else photographs

    def photographs_of(self, names: Sequence[str]) -> np.ndarray:
        """(n,) rows, ascending, of those set apart whose noun is one of some names, in any case."""
        wanted = {name.casefold() for name in names}
        nouns = self._nouns.dictionary.to_pylist()
        codes = [code for code, noun in enumerate(nouns) if noun.casefold() in wanted]
        return np.flatnonzero(self.set_apart & np.isin(self._noun_codes, codes))

    def source_counts(self) -> dict[str, int]:
        """How many prototypes come from where."""
        photographs = int(self._from_photographs.sum())
        found = {GENERATED: len(self) - photographs, PHOTOGRAPH: photographs}
        return {source: count for source, count in found.items() if count}

    def prototypes(self) -> Iterator[Prototype]:
        """All prototypes in order, one batch in memory at a time; keys and vectors as stored."""
        start = 0
        for batch, vectors in zip(self._batches, self._vector_views, strict=True):
            keys = self.keys_of(range(start, start + len(batch)))
            start += len(batch)
            rows = batch.drop_columns(["vector"]).to_pylist()
            for row, key, vector in zip(rows, keys, vectors, strict=True):
                yield Prototype(**row, key=key, vector=vector.astype(np.float32))

    def column(self, name: str) -> Iterator[Any]:
        """One column of all prototypes, in order, one batch in memory at a time."""
        for batch in self._batches:
            yield from batch.column(name).to_pylist()

    def rejects(self) -> pa.Table:
        """Every caption or noun that gave no prototype: caption_id, caption, noun, reason, as text.

        Raises `IndexCorruptError`.
        """
        return read_rejects((self.folder / REJECTS).read_bytes())

    def noun_counts(self) -> dict[str, int]:
        """How many prototypes each noun has, most first."""
        found = np.bincount(self._noun_codes).tolist()
        counts = dict(zip(self._nouns.dictionary.to_pylist(), found, strict=True))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def class_prototypes(self, queries: np.ndarray, k: int, *, margin: float = 2.0) -> ClassPrototypes:
        """The mean of each class's k nearest raw vectors, then L2 (FreeDA, section 3.2).

        queries: (C, K) unit text embeddings.
        margin: neighbours whose similarity is below the nearest one's by more than this are left out, so that
            a class of few prototypes does not borrow those of others; 2 leaves none out.
        All keys that tie with the k-th nearest are taken too; prototypes `set_apart` are not. Vectors that
        are not finite are left out of the mean. The latest classes are kept, so that they are not searched
        again; threads may ask at once.
        """
        return self._class_retrieval(np.ascontiguousarray(queries, np.float32), k, margin)


def _require_rows(rows: Sequence[int] | np.ndarray) -> np.ndarray:
    numbers = np.asarray(rows, np.int64)
    if (numbers < 0).any():
        raise ValueError("rows hold -1, which stands for no prototype; leave those out")
    return numbers
