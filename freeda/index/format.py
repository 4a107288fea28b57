"""The files of an index: their names, schemas and manifest. No other module knows how they are laid out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import IndexCorruptError
from freeda.files import file_digest, replacing, sync
from freeda.records import Prototype, Reject

__all__ = [
    "CARD",
    "FILES",
    "FORMAT",
    "KEYS",
    "MANIFEST",
    "PROTOTYPES",
    "PROTOTYPE_COLUMNS",
    "REJECTS",
    "REJECT_SCHEMA",
    "REPORT",
    "ROWS_PER_BATCH",
    "Manifest",
    "check_files",
    "manifest_text",
    "parquet_table",
    "open_prototypes",
    "parse_manifest",
    "prototype_batch",
    "prototype_schema",
    "read_manifest",
    "read_rejects",
    "reject_table",
    "write_manifest",
    "write_rejects",
]

FORMAT = 3
READ_FORMATS = (2, FORMAT)
"""Format 2 has no column `source`: all of its prototypes are generated."""
MANIFEST = "manifest.json"
KEYS, PROTOTYPES, REJECTS, CARD = "keys.faiss", "prototypes.arrow", "rejects.parquet", "README.md"
REPORT = "report.html"
"""For people; it lies in the folder, but is not one of the index's files."""
FILES = (KEYS, PROTOTYPES, REJECTS, CARD)
"""All files of an index but its manifest."""
_MOST_DIMS = 65_536
"""Of keys and vectors that a manifest may tell of."""
_DEEPEST = 200
"""Lists and tables within one another that a build may have; every subset of a subset adds four."""
ROWS_PER_BATCH = 4096
"""Prototypes per record batch of `prototypes.arrow`; only the last batch may be smaller."""
_FLOATS = pa.list_(pa.float32())
PROTOTYPE_COLUMNS: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "noun": pa.string(),
    "caption_id": pa.string(),
    "caption": pa.string(),
    "key": _FLOATS,
    "vector": _FLOATS,
    "area": pa.float64(),
    "peak": pa.float64(),
    "seed": pa.int64(),
    "thumbnail": pa.binary(),
}
"""Of generated prototypes in parquet files, before they are in an index."""
REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("caption_id", "caption", "noun", "reason")])


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index holds and what it was built from. It is written last: an index without one is unfinished.

    preset: as plain data.
    fingerprints: of the weights of "diffusion", "clip" and "backbone", and the "precision" they ran in.
    key_dim, vector_dim: widths of keys and visual vectors.
    prototypes, nouns, captions, rejects: counts.
    build: everything that decides the prototypes.
    build_fingerprint: the build's id, a digest of it.
    factory: FAISS's name for the kind of `keys.faiss`.
    recall: share of the 350 nearest keys that it finds, measured when it was built.
    files, sizes: sha256 and bytes of every file, by name.
    """

    preset: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    key_dim: int
    vector_dim: int
    prototypes: int
    nouns: int
    captions: int
    rejects: int
    build: Mapping[str, Any]
    build_fingerprint: str
    seed: int
    factory: str = "Flat"
    recall: float = 1.0
    keys_normalized: bool = True
    vectors_normalized: bool = False
    licenses: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    format: int = FORMAT


def prototype_schema(vector_dim: int, version: int = FORMAT) -> pa.Schema:
    """The columns of `prototypes.arrow`. version: of the format."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("noun", pa.string()),
            ("caption_id", pa.string()),
            ("caption", pa.string()),
            ("vector", pa.list_(pa.float16(), vector_dim)),
            ("area", pa.float32()),
            ("peak", pa.float32()),
            ("seed", pa.int64()),
            ("thumbnail", pa.binary()),
            *([("source", pa.string())] if version > 2 else []),
        ]
    )


def prototype_batch(prototypes: Sequence[Prototype]) -> pa.RecordBatch:
    """Prototypes as a record batch of `prototypes.arrow`; keys lie in a file of their own."""
    schema = prototype_schema(len(prototypes[0].vector))
    flat = np.concatenate([prototype.vector for prototype in prototypes]).astype(np.float16)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(flat), schema.field("vector").type.list_size)
        if name == "vector"
        else pa.array([getattr(prototype, name) for prototype in prototypes], schema.field(name).type)
        for name in schema.names
    ]
    return pa.record_batch(columns, schema=schema)


def open_prototypes(folder: Path, manifest: Manifest) -> list[pa.RecordBatch]:
    """The record batches of `prototypes.arrow`, memory-mapped; raises `IndexCorruptError`."""
    path = folder / PROTOTYPES
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)  # an offset that lies outside of its buffer would end the process
    except (pa.ArrowException, OSError) as error:
        raise IndexCorruptError(f"{path} cannot be read: {error}; restore or rebuild the index") from error
    rows = sum(map(len, batches))
    schema = prototype_schema(manifest.vector_dim, manifest.format)
    if rows != manifest.prototypes or reader.schema != schema:
        raise IndexCorruptError(f"{path} does not match its manifest; restore or rebuild the index")
    return batches


def reject_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as a table of `REJECT_SCHEMA`."""
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], REJECT_SCHEMA)


def write_rejects(rejects: pa.Table, folder: Path) -> None:
    """Writes a table of `REJECT_SCHEMA` as `rejects.parquet`."""
    pq.write_table(rejects.cast(REJECT_SCHEMA), folder / REJECTS)


def parquet_table(content: bytes) -> pa.Table:
    """The table that the bytes of a parquet file hold, read in this thread.

    `pq.read_table` leaves the bytes to a thread of Arrow's; where that lets go of them while Python ends, the
    process aborts.
    """
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(use_threads=False)


def read_rejects(content: bytes) -> pa.Table:
    """The table that the bytes of a `rejects.parquet` hold; raises `IndexCorruptError`."""
    try:
        return parquet_table(content).cast(REJECT_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IndexCorruptError(f"{REJECTS} cannot be read: {error}; restore or rebuild the index") from error


def manifest_text(manifest: Manifest) -> str:
    """As JSON, with its own sha256, taken while that field is empty: a change of any byte is found."""
    return _text(manifest, hashlib.sha256(_text(manifest, "").encode()).hexdigest())


def _text(manifest: Manifest, digest: str) -> str:
    return json.dumps({**asdict(manifest), "digest": digest}, indent=2, sort_keys=True) + "\n"


def write_manifest(folder: Path, manifest: Manifest, files: Sequence[str] = FILES) -> None:
    """Adds the digests and sizes of `files` and writes the manifest atomically, after all else.

    Once it returns, a power cut loses nothing.
    """
    for name in files:
        sync(folder / name)
    complete = replace(
        manifest,
        files={name: file_digest(folder / name) for name in files},
        sizes={name: (folder / name).stat().st_size for name in files},
    )
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(manifest_text(complete), encoding="utf-8")
    if os.name == "posix":
        sync(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; raises `IndexCorruptError`."""
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The inverse of `manifest_text`; raises `IndexCorruptError`, which names `where`."""
    try:
        data = json.loads(content.decode("utf-8"))
        if data.get("format") not in READ_FORMATS:
            raise IndexCorruptError(
                f"{where} has format {data.get('format')!r}; this version reads formats "
                f"{' and '.join(map(str, READ_FORMATS))}; "
                f"rebuild the index or install the freeda that wrote it"
            )
        digest = data.pop("digest")
        if hashlib.sha256(content.replace(digest.encode(), b"", 1)).hexdigest() != digest:
            raise TypeError("its sha256 differs from the one it holds")
        manifest = Manifest(**data)
        if wrong := next(_wrong_fields(manifest), None):
            raise TypeError(f"its {wrong} is {getattr(manifest, wrong)!r:.60}")
        if not set(FILES) == set(manifest.files) == set(manifest.sizes):
            raise TypeError("it does not name every file")
        return manifest
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise IndexCorruptError(f"{where} is damaged ({error}); restore or rebuild the index") from error


def _wrong_fields(manifest: Manifest) -> Iterator[str]:
    """The fields that hold no such value as they are for."""
    for name, most in (("key_dim", _MOST_DIMS), ("vector_dim", _MOST_DIMS), ("prototypes", 2**48)):
        if not _is_whole(getattr(manifest, name), 1, most):
            yield name
    for name in ("nouns", "captions", "rejects"):
        if not _is_whole(getattr(manifest, name), 0):
            yield name
    if not _is_whole(manifest.seed, -(2**63)):
        yield "seed"
    if not isinstance(manifest.recall, float) or not 0 <= manifest.recall <= 1:
        yield "recall"
    for name in ("factory", "build_fingerprint"):
        if not isinstance(getattr(manifest, name), str):
            yield name
    for name in ("preset", "build"):
        if not isinstance(getattr(manifest, name), dict):
            yield name
    for name in ("fingerprints", "licenses", "files"):
        held = getattr(manifest, name)
        if not isinstance(held, dict) or not all(isinstance(value, str) for value in held.values()):
            yield name
    if not isinstance(manifest.sizes, dict) or not all(
        _is_whole(size, 0) for size in manifest.sizes.values()
    ):
        yield "sizes"
    if not {"diffusion", "clip", "backbone"} <= set(manifest.fingerprints):
        yield "fingerprints"
    if not {"name", "licenses", "models", "localization", "segmentation"} <= set(manifest.preset):
        yield "preset"
    if not _is_build(manifest.build):
        yield "build"


def _is_build(build: Mapping[str, Any]) -> bool:
    """Whether what an index was built from can be read part by part."""
    merged = build.get("merged", [])
    return (
        isinstance(merged, list)
        and all(isinstance(part, dict) for part in merged)
        and all(isinstance(part.get("fingerprint"), str) for part in merged)
        and all(isinstance(part.get("build"), dict) for part in merged)
        and _depth(build) <= _DEEPEST
    )


def _depth(content: Any) -> int:
    """How many lists and tables lie within one another."""
    depth, level = 0, [content]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _is_whole(value: Any, least: int, most: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def check_files(folder: Path, manifest: Manifest, *, digests: bool) -> None:
    """Raises `IndexCorruptError` where a file's size is not as written, or, with `digests`, any byte."""
    for name, size in manifest.sizes.items():
        path = folder / name
        if not path.is_file():
            raise IndexCorruptError(f"index file {path} is missing; restore or rebuild the index")
        if path.stat().st_size != size:
            raise IndexCorruptError(
                f"index file {path} has {path.stat().st_size} bytes; {size} were written; "
                f"restore or rebuild the index"
            )
        if digests and file_digest(path) != manifest.files[name]:
            raise IndexCorruptError(
                f"index file {path} is not the one that was written (its sha256 differs); "
                f"restore or rebuild the index"
            )
