"""New indexes from finished ones: merge, subset, leave out, dedupe."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freeda.errors import IndexMismatchError, OutputError, reason
from freeda.index.format import MANIFEST, REJECT_SCHEMA, Manifest
from freeda.index.keys import KeyOptions
from freeda.index.near_duplicates import near_duplicates
from freeda.index.placing import placed, require_free
from freeda.index.reader import PrototypeIndex
from freeda.index.writer import NoPrototypesError, Origin, write_index
from freeda.locking import locked
from freeda.records import Prototype
from freeda.vectors import unit

__all__ = ["Edited", "dedupe", "leave_out", "merge", "require_place", "subset", "write_new"]


_ADDED = re.compile("#[0-9a-f]{12}$")
"""What a merge adds to an id that another prototype has."""


@dataclass(frozen=True)
class Edited:
    """A new index's manifest, and how many prototypes of the old ones it does not hold."""

    manifest: Manifest
    dropped: int


def merge(
    indexes: Sequence[PrototypeIndex],
    out: str | Path,
    *,
    keys: KeyOptions | None = None,
    overwrite: bool = False,
    rejects: pa.Table | None = None,
    tried_again: Collection[tuple[str, str]] = (),
) -> Edited:
    """Joins several indexes, in order. A prototype or a reject that is in two of them is taken once.

    Prototypes are the same if noun, caption, seed and visual vector are.
    keys: how they are indexed; None chooses the kind by their number.
    rejects: further rejects, a table of `REJECT_SCHEMA`.
    tried_again: ids and texts of captions whose rejection in the first index is out of date.
    Raises `IndexMismatchError` unless all were built with the same models and kind of key, and `OutputError`.
    """
    first = indexes[0]
    for other in indexes[1:]:
        _require_same_models(first, other)
    more = [] if rejects is None else [rejects]
    held = [_without(first.rejects(), frozenset(tried_again)), *(item.rejects() for item in indexes[1:])]
    all_rejects = _unique(pa.concat_tables([*held, *more]))
    return _write(out, _merged(indexes), all_rejects, indexes, {"merged": _builds(indexes)}, overwrite, keys)


def subset(
    index: PrototypeIndex,
    out: str | Path,
    *,
    nouns: Collection[str] = (),
    caption_ids: Collection[str] = (),
    keys: KeyOptions | None = None,
    overwrite: bool = False,
) -> Edited:
    """Takes the prototypes and rejects of these nouns and of these captions.

    keys: how they are indexed; None chooses the kind by their number, whatever that of `index` is.
    Raises `IndexMismatchError` where there are none, and `OutputError`.
    """
    wanted, ids = frozenset(nouns), frozenset(caption_ids)
    kept = (item for item in index.prototypes() if item.noun in wanted or item.caption_id in ids)
    table = index.rejects()
    chosen = pc.or_(
        pc.is_in(table.column("noun"), pa.array(sorted(wanted), pa.string())),
        pc.is_in(table.column("caption_id"), pa.array(sorted(ids), pa.string())),
    )
    change = {"subset": {"of": _builds([index]), "nouns": sorted(wanted), "caption_ids": sorted(ids)}}
    return _write(out, kept, table.filter(chosen), [index], change, overwrite, keys)


def leave_out(
    index: PrototypeIndex,
    out: str | Path,
    *,
    rows: Collection[int],
    keys: KeyOptions | None = None,
    overwrite: bool = False,
) -> Edited:
    """Takes all prototypes but some.

    rows: of those that are left out.
    keys: how they are indexed; None chooses the kind by their number, whatever that of `index` is.
    Raises `IndexMismatchError` where none is left, or for a row that the index does not have, and
    `OutputError`.
    """
    dropped = frozenset(rows)
    if strange := sorted(row for row in dropped if not 0 <= row < len(index)):
        raise IndexMismatchError(
            f"'{index.folder}' has no row {strange[0]}; its rows end at {len(index) - 1}"
        )
    kept = (item for row, item in enumerate(index.prototypes()) if row not in dropped)
    change = {"left_out": {"of": _builds([index]), "ids": sorted(index.ids(sorted(dropped)))}}
    return _write(out, kept, index.rejects(), [index], change, overwrite, keys)


def dedupe(
    index: PrototypeIndex,
    out: str | Path,
    *,
    similarity: float = 0.98,
    keys: KeyOptions | None = None,
    overwrite: bool = False,
) -> Edited:
    """Leaves out prototypes that repeat an earlier one of the same noun.

    similarity: cosine that both key and visual vector must reach to be a repeat.
    keys: how they are indexed; None chooses the kind by their number, whatever that of `index` is.
    Raises `OutputError`.
    """
    dropped = np.concatenate([[], *(_repeats(index, rows, similarity) for rows in _rows_by_noun(index))])
    left_out = frozenset(dropped.astype(np.int64).tolist())
    kept = (item for row, item in enumerate(index.prototypes()) if row not in left_out)
    change = {"deduplicated": {"of": _builds([index]), "similarity": similarity}}
    return _write(out, kept, index.rejects(), [index], change, overwrite, keys)


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
    """What each index was built from, for the new one's manifest.

    Of a merged one, what that was merged from: else every merge would nest one level deeper. Where keys were
    decoded from a compressed index, its kind is noted.
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


def _merged(indexes: Sequence[PrototypeIndex]) -> Iterator[Prototype]:
    """Each prototype once, with a key of unit length and an id that no other has.

    Of an id that stands for several prototypes, the later ones get a part of their digest added.
    """
    seen, ids = set[bytes](), set[bytes]()
    for index in indexes:
        for item in index.prototypes():
            given = _ADDED.sub("", item.id)
            identity = json.dumps([given, item.noun, item.caption_id, item.caption, item.seed]).encode()
            digest = hashlib.blake2b(identity + item.vector.tobytes(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
            name = hashlib.blake2b(given.encode(), digest_size=16).digest()
            unique = given if name not in ids else f"{given}#{digest.hex()[:12]}"
            ids.add(name)
            key = item.key if index.manifest.factory == "Flat" else unit(item.key)  # decoded ones are not
            yield replace(item, id=unique, key=key)


def _repeats(index: PrototypeIndex, rows: np.ndarray, similarity: float) -> np.ndarray:
    """Those of (n,) rows, in order, that repeat one kept before them."""
    keys, looks = unit(index.keys_of(rows)), unit(index.vectors(rows))
    repeats: np.ndarray = rows[near_duplicates(keys, looks, similarity=similarity)]
    return repeats


def _unique(rejects: pa.Table) -> pa.Table:
    return rejects.group_by(REJECT_SCHEMA.names, use_threads=False).aggregate([])


def _without(rejects: pa.Table, captions: frozenset[tuple[str, str]]) -> pa.Table:
    """The rejects without those of some whole captions, given by id and text."""
    columns = (rejects.column(name).to_pylist() for name in ("caption_id", "caption", "noun"))
    kept = [
        bool(noun) or (caption_id, text) not in captions
        for caption_id, text, noun in zip(*columns, strict=True)
    ]
    return rejects.filter(pa.array(kept, pa.bool_()))


def _rows_by_noun(index: PrototypeIndex) -> Iterator[np.ndarray]:
    rows: dict[str, list[int]] = {}
    for row, noun in enumerate(index.column("noun")):
        rows.setdefault(noun, []).append(row)
    yield from (np.array(numbers) for numbers in rows.values())


def require_place(out: str | Path, sources: Sequence[PrototypeIndex], *, overwrite: bool) -> None:
    """Raises `OutputError` where a new index may not be written: an index that is read, one that is not to be
    replaced, or other files lie there.
    """
    folder = Path(out)
    if any(folder.resolve() == source.folder.resolve() for source in sources):
        raise OutputError(f"'{out}' is the index that is read; choose another --out")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    require_free(names, str(out))
    if MANIFEST in names and not overwrite:
        raise OutputError(
            f"'{out}' holds an index already; replace it with --overwrite, or choose another --out"
        )


def write_new(
    out: str | Path,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    captions: int,
    origin: Origin,
    keys: KeyOptions | None = None,
    *,
    overwrite: bool = False,
) -> Manifest:
    """As `write_index`, into a new folder or, with `overwrite`, in the place of an index.

    Until the new index is whole, an old one stays. Raises `NoPrototypesError`, `OutputError`.
    """
    require_place(out, (), overwrite=overwrite)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder), placed(folder) as new:
            return write_index(new, prototypes, rejects, captions, origin, keys)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write the index to '{out}': {reason(error)}") from error


def _write(
    out: str | Path,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    sources: Sequence[PrototypeIndex],
    change: dict[str, Any],
    overwrite: bool,
    keys: KeyOptions | None = None,
) -> Edited:
    require_place(out, sources, overwrite=overwrite)
    first = sources[0].manifest
    origin = Origin(
        preset=first.preset,
        models=first.fingerprints,
        build=change,
        build_id=hashlib.sha256(json.dumps(change, sort_keys=True).encode()).hexdigest()[:16],
        seed=first.seed,
    )
    captions = sum(source.manifest.captions for source in sources)
    try:
        manifest = write_new(out, prototypes, rejects, captions, origin, keys, overwrite=overwrite)
    except NoPrototypesError as error:
        raise IndexMismatchError(
            f"'{sources[0].folder}' has no such prototype; see `freeda index info`"
        ) from error
    return Edited(manifest, sum(map(len, sources)) - manifest.prototypes)
