"""New indexes from finished ones: several merged, a part taken, near-duplicates left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from freeda.index.near_duplicates import near_duplicates
from freeda.errors import IndexMismatchError, OutputError
from freeda.index.reader import PrototypeIndex
from freeda.index.format import MANIFEST, REJECTS, Manifest
from freeda.index.format import REJECT_SCHEMA
from freeda.index.writer import NoPrototypesError, Origin, write_index
from freeda.locking import locked
from freeda.records import Prototype

__all__ = ["Edited", "dedupe", "merge", "subset"]


@dataclass(frozen=True)
class Edited:
    """A new index's manifest, and how many prototypes of the old ones it does not hold."""

    manifest: Manifest
    dropped: int


def merge(
    indexes: Sequence[PrototypeIndex],
    out: Path,
    *,
    factory: str | None = None,
    overwrite: bool = False,
    rejects: pa.Table | None = None,
) -> Edited:
    """All prototypes of several indexes in order; one that is in two of them (the same in name, caption,
    seed and looks) is taken once, and so are their rejects.

    factory: FAISS's name for the kind of index over the keys, None for the one of their number;
    rejects: more of them, of `REJECT_SCHEMA`.
    Raises `IndexMismatchError` unless the same models and kind of key made all, `OutputError`.
    """
    first = indexes[0]
    for other in indexes[1:]:
        _require_same_models(first, other)
    more = [] if rejects is None else [rejects]
    all_rejects = _unique(pa.concat_tables([*map(_rejects, indexes), *more]))
    return _write(
        out, _merged(indexes), all_rejects, indexes, {"merged": _builds(indexes)}, overwrite, factory
    )


def subset(
    index: PrototypeIndex,
    out: Path,
    *,
    nouns: Collection[str] = (),
    caption_ids: Collection[str] = (),
    overwrite: bool = False,
) -> Edited:
    """The prototypes, and the rejects, of these nouns or of these captions.

    Raises `IndexMismatchError` where there are none, `OutputError`.
    """
    wanted, ids = frozenset(nouns), frozenset(caption_ids)
    kept = (item for item in index.prototypes() if item.noun in wanted or item.caption_id in ids)
    table = _rejects(index)
    chosen = pc.or_(
        pc.is_in(table.column("noun"), pa.array(sorted(wanted), pa.string())),
        pc.is_in(table.column("caption_id"), pa.array(sorted(ids), pa.string())),
    )
    change = {"subset": {"of": _builds([index]), "nouns": sorted(wanted), "caption_ids": sorted(ids)}}
    return _write(out, kept, table.filter(chosen), [index], change, overwrite)


def dedupe(index: PrototypeIndex, out: Path, *, similarity: float = 0.98, overwrite: bool = False) -> Edited:
    """Leaves out every prototype whose key and visual vector are both at least so similar (cosine) to
    those of one kept before it under the same noun.

    Raises `OutputError`.
    """
    dropped = np.concatenate([[], *(_repeats(index, rows, similarity) for rows in _rows_by_noun(index))])
    left_out = frozenset(dropped.astype(np.int64).tolist())
    kept = (item for row, item in enumerate(index.prototypes()) if row not in left_out)
    change = {"deduplicated": {"of": _builds([index]), "similarity": similarity}}
    return _write(out, kept, _rejects(index), [index], change, overwrite)


def _require_same_models(first: PrototypeIndex, other: PrototypeIndex) -> None:
    """Precision may differ; weights, widths and the kind of key may not."""
    for kind in ("diffusion", "clip", "backbone"):
        here, there = first.manifest.fingerprints[kind], other.manifest.fingerprints[kind]
        if here != there:
            raise IndexMismatchError(
                f"'{other.folder}' was built with another {kind} model (weights {there}) than "
                f"'{first.folder}' ({here}); only indexes of the same models can be merged"
            )
    for what, mine, theirs in (
        ("kind of key", first.preset.localization.key, other.preset.localization.key),
        ("dense_size", first.preset.segmentation.dense_size, other.preset.segmentation.dense_size),
        ("templates", first.preset.segmentation.templates, other.preset.segmentation.templates),
    ):
        if mine != theirs:
            raise IndexMismatchError(
                f"'{other.folder}' was built with {what} {theirs}, '{first.folder}' with {mine}; only "
                f"indexes of the same can be merged"
            )


def _builds(indexes: Sequence[PrototypeIndex]) -> list[dict[str, Any]]:
    """What each index was built from, so that a new one tells where it comes from.

    A merged one stands for what it was merged from: else every merging would nest one deeper. Where keys
    had to be decoded from a compressed index, its kind is noted.
    """
    found: list[dict[str, Any]] = []
    for index in indexes:
        manifest = index.manifest
        parts = manifest.build.get("merged") or [
            {"fingerprint": manifest.build_fingerprint, "build": dict(manifest.build)}
        ]
        decoded = {} if manifest.factory == "Flat" else {"keys_decoded_from": manifest.factory}
        found += [{**part, **decoded} for part in parts]
    return found


def _rejects(index: PrototypeIndex) -> pa.Table:
    return pq.read_table(index.folder / REJECTS).cast(REJECT_SCHEMA)


def _merged(indexes: Sequence[PrototypeIndex]) -> Iterator[Prototype]:
    seen: set[bytes] = set()
    for index in indexes:
        for item in index.prototypes():
            identity = json.dumps([item.id, item.noun, item.caption_id, item.caption, item.seed]).encode()
            digest = hashlib.blake2b(identity + item.vector.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield item


def _repeats(index: PrototypeIndex, rows: np.ndarray, similarity: float) -> np.ndarray:
    """Those of (n,) rows, in order, that repeat one kept before them."""
    keys, looks = _unit(index.keys_of(rows)), _unit(index.vectors(rows))
    repeats: np.ndarray = rows[near_duplicates(keys, looks, similarity=similarity)]
    return repeats


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Keys of a compressed index come back at nearly unit length only."""
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _unique(rejects: pa.Table) -> pa.Table:
    return rejects.group_by(REJECT_SCHEMA.names, use_threads=False).aggregate([])


def _rows_by_noun(index: PrototypeIndex) -> Iterator[np.ndarray]:
    rows: dict[str, list[int]] = {}
    for row, noun in enumerate(index.column("noun")):
        rows.setdefault(noun, []).append(row)
    yield from (np.array(numbers) for numbers in rows.values())


def _write(
    out: Path,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    sources: Sequence[PrototypeIndex],
    change: dict[str, Any],
    overwrite: bool,
    factory: str | None = None,
) -> Edited:
    folder = Path(out)
    if any(folder.resolve() == source.folder.resolve() for source in sources):
        raise OutputError(f"'{out}' is the index that is read; choose another --out")
    if (folder / MANIFEST).exists() and not overwrite:
        raise OutputError(
            f"'{out}' holds an index already; replace it with --overwrite, or choose another --out"
        )
    first = sources[0].manifest
    origin = Origin(
        preset=first.preset,
        models=first.fingerprints,
        build=change,
        fingerprint=hashlib.sha256(json.dumps(change, sort_keys=True).encode()).hexdigest()[:16],
        seed=first.seed,
    )
    captions = sum(source.manifest.captions for source in sources)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            manifest = write_index(folder, prototypes, rejects, captions, origin, factory)
    except NoPrototypesError as error:
        raise IndexMismatchError(
            f"'{sources[0].folder}' has no such prototype; see `freeda index info`"
        ) from error
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write the index to '{out}': {error.strerror or error}") from error
    return Edited(manifest, sum(map(len, sources)) - manifest.prototypes)
