"""The index folder's format: its files, its manifest, and whether both are as they were written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from freeda.errors import IndexCorruptError

__all__ = [
    "CARD",
    "FILES",
    "FORMAT",
    "KEYS",
    "MANIFEST",
    "PROTOTYPES",
    "REPORT",
    "REJECTS",
    "ROWS_PER_BATCH",
    "Manifest",
    "check_files",
    "manifest_text",
    "parse_manifest",
    "prototype_schema",
    "read_manifest",
    "write_manifest",
]

FORMAT = 2
MANIFEST = "manifest.json"
KEYS, PROTOTYPES, REJECTS, CARD = "keys.faiss", "prototypes.arrow", "rejects.parquet", "README.md"
REPORT = "report.html"
"""For people; beside the files, not one of them."""
FILES = (KEYS, PROTOTYPES, REJECTS, CARD)
"""Every file of an index beside its manifest."""
ROWS_PER_BATCH = 4096
"""Prototypes a record batch of `prototypes.arrow`; all but the last are full."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index is made of and from; written last, so that an index without one is unfinished.

    fingerprints: of the weights of "diffusion", "clip" and "backbone", and the "precision" they ran
    in; factory: FAISS's name for the kind of `keys.faiss`; recall: the share of the 350 nearest keys that
    it finds, measured when it was built; files: name to sha256.
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


def prototype_schema(vector_dim: int) -> pa.Schema:
    """The columns of `prototypes.arrow`."""
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
        ]
    )


def manifest_text(manifest: Manifest) -> str:
    """As JSON, with the sha256 that the text has while its place is empty: whatever byte of it changes is
    found.
    """
    return _text(manifest, hashlib.sha256(_text(manifest, "").encode()).hexdigest())


def _text(manifest: Manifest, digest: str) -> str:
    return json.dumps({**asdict(manifest), "digest": digest}, indent=2, sort_keys=True) + "\n"


def write_manifest(folder: Path, manifest: Manifest, files: Sequence[str] = FILES) -> None:
    """Adds the digests and sizes of `files` and writes the manifest atomically, last of all; on return
    a power cut takes none of it.
    """
    for name in files:
        _sync(folder / name)
    complete = replace(
        manifest,
        files={name: _sha256(folder / name) for name in files},
        sizes={name: (folder / name).stat().st_size for name in files},
    )
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(manifest_text(complete), encoding="utf-8")
    _sync(partial)
    os.replace(partial, folder / MANIFEST)
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; raises `IndexCorruptError`."""
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The inverse of `manifest_text`; raises `IndexCorruptError`, which names `where`."""
    try:
        data = json.loads(content.decode("utf-8"))
        if data.get("format") != FORMAT:
            raise IndexCorruptError(
                f"{where} has format {data.get('format')!r}; this version reads format {FORMAT}; "
                f"rebuild the index or install the freeda that wrote it"
            )
        digest = data.pop("digest")
        if hashlib.sha256(content.replace(digest.encode(), b"", 1)).hexdigest() != digest:
            raise TypeError("it is not the one that was written: its sha256 differs")
        manifest = Manifest(**data)
        if not set(FILES) == set(manifest.files) == set(manifest.sizes):
            raise TypeError("it does not name every file")
        return manifest
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise IndexCorruptError(f"{where} is damaged ({error}); restore or rebuild the index") from error


def check_files(folder: Path, manifest: Manifest, *, digests: bool) -> None:
    """Raises `IndexCorruptError` where a file's size, or with `digests` any byte, is not as written."""
    for name, size in manifest.sizes.items():
        path = folder / name
        if not path.is_file():
            raise IndexCorruptError(f"index file {path} is missing; restore or rebuild the index")
        if path.stat().st_size != size:
            raise IndexCorruptError(
                f"index file {path} has {path.stat().st_size} bytes; {size} were written; "
                f"restore or rebuild the index"
            )
        if digests and _sha256(path) != manifest.files[name]:
            raise IndexCorruptError(
                f"index file {path} is not the one that was written (its sha256 differs); "
                f"restore or rebuild the index"
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
