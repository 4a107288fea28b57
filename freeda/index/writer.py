"""Writes an index: keys for FAISS, the prototypes' Arrow file, rejects, the card, and last the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
from more_itertools import chunked

from freeda.files import replacing
from freeda.index.card import index_card
from freeda.index.format import (
    CARD,
    KEYS,
    MANIFEST,
    PROTOTYPES,
    REPORT,
    ROWS_PER_BATCH,
    Manifest,
    prototype_batch,
    prototype_schema,
    write_manifest,
    write_rejects,
)
from freeda.index.keys import KeyOptions, build_keys, check_factory, choose_factory
from freeda.records import Prototype

__all__ = ["NoPrototypesError", "Origin", "write_index"]


class NoPrototypesError(ValueError):
    """There is nothing to write an index of."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an index is made from.

    preset: as plain data.
    models: fingerprints of the weights, and the precision.
    build: everything that decides the prototypes.
    build_id: a digest of it.
    """

    preset: Mapping[str, Any]
    models: Mapping[str, str]
    build: Mapping[str, Any]
    build_id: str
    seed: int = 0


@dataclass(frozen=True)
class _Stored:
    """What was written of the prototypes. factory, recall: of the keys."""

    count: int
    key_dim: int
    vector_dim: int
    factory: str
    recall: float


def write_index(
    folder: Path,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    captions: int,
    origin: Origin,
    keys: KeyOptions | None = None,
    before_manifest: Callable[[Manifest], object] = lambda manifest: None,
) -> Manifest:
    """Writes a whole index into `folder`; an index that is there is removed once the new prototypes are
    written.

    prototypes: at least one; they are streamed.
    rejects: a table of `REJECT_SCHEMA`.
    captions: how many gave prototypes and rejects.
    keys: how they are indexed.
    before_manifest: called once everything but the manifest is written.
    Raises `ConfigError`, `NoPrototypesError`, `OSError`.
    """
    nouns: Counter[str] = Counter()
    stored = _write_prototypes(folder, _counted(prototypes, nouns), keys or KeyOptions())
    write_rejects(rejects, folder)
    manifest = Manifest(
        preset=origin.preset,
        fingerprints=dict(origin.models),
        key_dim=stored.key_dim,
        vector_dim=stored.vector_dim,
        prototypes=stored.count,
        nouns=len(nouns),
        captions=captions,
        rejects=rejects.num_rows,
        build=dict(origin.build),
        build_fingerprint=origin.build_id,
        seed=origin.seed,
        factory=stored.factory,
        recall=round(stored.recall, 4),
        licenses=dict(origin.preset["licenses"]),
    )
    (folder / CARD).write_text(index_card(manifest, nouns, rejects), encoding="utf-8")
    before_manifest(manifest)
    write_manifest(folder, manifest)
    return manifest


def _counted(prototypes: Iterable[Prototype], nouns: Counter[str]) -> Iterator[Prototype]:
    for prototype in prototypes:
        nouns[prototype.noun] += 1
        yield prototype


def _write_prototypes(folder: Path, prototypes: Iterator[Prototype], options: KeyOptions) -> _Stored:
    """Streams prototypes into `keys.faiss` and `prototypes.arrow`.

    Files of those names are replaced, never written into, for another process may have them mapped. Keys are
    kept in a temporary file: their kind of index depends on their number, its training on a sample of them.
    """
    first = next(prototypes, None)
    if first is None:
        raise NoPrototypesError("an index needs at least one prototype")
    key_dim, vector_dim = len(first.key), len(first.vector)
    if options.factory is not None:
        check_factory(options.factory, (key_dim,))
    gpu = options.on_gpu()
    with ExitStack() as held:
        raw = held.enter_context(TemporaryFile(dir=folder))
        new = {name: held.enter_context(replacing(folder / name)) for name in (KEYS, PROTOTYPES)}
        _stream(chain([first], prototypes), raw, new[PROTOTYPES], vector_dim)
        keys = np.memmap(raw, np.float32, "r").reshape(-1, key_dim)
        kind = options.factory or choose_factory(len(keys), key_dim)
        recall = build_keys(keys, kind, new[KEYS], gpu=gpu)
        for name in (MANIFEST, REPORT):
            (folder / name).unlink(missing_ok=True)
    return _Stored(len(keys), key_dim, vector_dim, kind, recall)


def _stream(prototypes: Iterable[Prototype], keys: IO[bytes], path: Path, vector_dim: int) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, prototype_schema(vector_dim)) as writer:
        for chunk in chunked(prototypes, ROWS_PER_BATCH):
            keys.write(np.stack([prototype.key for prototype in chunk]).astype(np.float32).tobytes())
            writer.write_batch(prototype_batch(chunk))
    keys.flush()
