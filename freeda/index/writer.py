"""Writes an index: keys for FAISS, the prototypes' Arrow file, rejects, the card, and last the manifest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from freeda.index.format import CARD, KEYS, MANIFEST, PROTOTYPES, REJECTS, REPORT, ROWS_PER_BATCH, Manifest, prototype_schema, write_manifest
from freeda.index.keys import RECALL_AT, build_keys, check_factory, choose_factory
from freeda.records import Prototype

__all__ = ["REJECT_SCHEMA", "NoPrototypesError", "Origin", "write_index"]

REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("caption_id", "caption", "noun", "reason")])


class NoPrototypesError(ValueError):
    """An index of nothing."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an index is made from.

    preset: as plain data; models: fingerprints of the weights and the precision; build: all that
    decides what comes out; fingerprint: the name of that.
    """

    preset: Mapping[str, Any]
    models: Mapping[str, str]
    build: Mapping[str, Any]
    fingerprint: str
    seed: int = 0


def write_index(
    folder: Path,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    captions: int,
    origin: Origin,
    factory: str | None = None,
    before_manifest: Callable[[Manifest], object] = lambda manifest: None,
) -> Manifest:
    """Writes a whole index into `folder`. An index that is there is given up once the new prototypes are
    written, and there is none until the end.

    prototypes: at least one, streamed; rejects: of `REJECT_SCHEMA`; captions: how many gave them all;
    factory: FAISS's name for the kind of index over the keys, None for the one of their number;
    before_manifest: called when all else is written.
    Raises `ConfigError`, `NoPrototypesError`, `OSError`.
    """
    nouns: Counter[str] = Counter()
    counted = _counted(prototypes, nouns)
    first = next(counted, None)
    if first is None:
        raise NoPrototypesError("an index needs at least one prototype")
    key_dim, vector_dim = len(first.key), len(first.vector)
    if factory is not None:
        check_factory(factory, (key_dim,))
    count, kind, recall = _write_prototypes(folder, chain([first], counted), key_dim, vector_dim, factory)
    pq.write_table(rejects.cast(REJECT_SCHEMA), folder / REJECTS)
    manifest = Manifest(
        preset=origin.preset,
        fingerprints=dict(origin.models),
        key_dim=key_dim,
        vector_dim=vector_dim,
        prototypes=count,
        nouns=len(nouns),
        captions=captions,
        rejects=rejects.num_rows,
        build=dict(origin.build),
        build_fingerprint=origin.fingerprint,
        seed=origin.seed,
        factory=kind,
        recall=round(recall, 4),
        licenses=dict(origin.preset["licenses"]),
    )
    (folder / CARD).write_text(_card(manifest, nouns, rejects), encoding="utf-8")
    before_manifest(manifest)
    write_manifest(folder, manifest)
    return manifest


def _counted(prototypes: Iterable[Prototype], nouns: Counter[str]) -> Iterator[Prototype]:
    for prototype in prototypes:
        nouns[prototype.noun] += 1
        yield prototype


def _write_prototypes(
    folder: Path, prototypes: Iterable[Prototype], key_dim: int, vector_dim: int, factory: str | None
) -> tuple[int, str, float]:
    """Streams prototypes into `keys.faiss` and `prototypes.arrow`; returns how many there were, the keys'
    factory and its recall.

    Files of those names are replaced, never written into: another process may have them mapped. Keys wait
    in a file beside them, for their kind of index depends on their number, and its training on a sample.
    """
    partial = {name: folder / f"{name}.partial" for name in (KEYS, PROTOTYPES)}
    raw = folder / f"{KEYS}.raw"
    schema = prototype_schema(vector_dim)
    try:
        with (
            raw.open("wb") as keys,
            pa.OSFile(str(partial[PROTOTYPES]), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            for chunk in _chunks(prototypes, ROWS_PER_BATCH):
                keys.write(np.stack([prototype.key for prototype in chunk]).astype(np.float32).tobytes())
                writer.write_batch(_to_batch(chunk, schema))
        stored = np.memmap(raw, np.float32, "r").reshape(-1, key_dim)
        kind = factory or choose_factory(len(stored), key_dim)
        recall = build_keys(stored, kind, partial[KEYS])
        for name in (MANIFEST, REPORT):
            (folder / name).unlink(missing_ok=True)
        for name, path in partial.items():
            os.replace(path, folder / name)
    finally:
        for path in (raw, *partial.values()):
            path.unlink(missing_ok=True)
    return len(stored), kind, recall


def _to_batch(chunk: list[Prototype], schema: pa.Schema) -> pa.RecordBatch:
    flat = np.concatenate([prototype.vector for prototype in chunk]).astype(np.float16)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(flat), schema.field("vector").type.list_size)
        if name == "vector"
        else pa.array([getattr(prototype, name) for prototype in chunk], schema.field(name).type)
        for name in schema.names
    ]
    return pa.record_batch(columns, schema=schema)


def _chunks(items: Iterable[Prototype], size: int) -> Iterable[list[Prototype]]:
    chunk: list[Prototype] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _card(manifest: Manifest, nouns: Counter[str], rejects: pa.Table) -> str:
    """The index card, for people."""
    preset = manifest.preset
    models = "\n".join(
        f"| {kind} | {', '.join(ids)} | {manifest.fingerprints[kind]} "
        f"| {manifest.licenses.get(kind, 'unknown')} |"
        for kind, ids in preset["models"].items()
    )
    common = ", ".join(f"{noun} ({count})" for noun, count in nouns.most_common(60))
    reasons = pc.value_counts(rejects.column("reason")).to_pylist()
    rejected = "\n".join(
        f"| {item['values']} | {item['counts']} |"
        for item in sorted(reasons, key=lambda item: (-item["counts"], item["values"]))
    )
    return f"""# Prototype index

{manifest.prototypes:,} textual-visual prototypes of {manifest.nouns:,} nouns, from
{manifest.captions:,} captions.
Keys: {manifest.key_dim}-d, L2-normalised, in FAISS as `{manifest.factory}` (recall@{RECALL_AT}
{manifest.recall:.3f}). Visual vectors: {manifest.vector_dim}-d, raw, float16.
Built with preset `{preset["name"]}`, seed {manifest.seed}, build fingerprint `{manifest.build_fingerprint}`.

| model | ids | weights | licence |
|---|---|---|---|
{models}

## Nouns, the most frequent

{common}

## Rejects

| reason | count |
|---|---|
{rejected}
"""
