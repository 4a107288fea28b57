"""New captions into a finished index: built beside it with its own settings, then merged in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

import freeda
from freeda.presets.settings import Precision, Preset
from freeda.errors import IndexMismatchError, NothingBuiltError, OutputError
from freeda.index.reader import PrototypeIndex, find_index, search_paths
from freeda.index.editing import merge
from freeda.index.format import FILES, MANIFEST, REJECTS, REPORT, Manifest
from freeda.locking import locked
from freeda.records import Caption
from index_build.captions.reader import DUPLICATE_ID, open_captions
from index_build.config import BuildConfig, CaptionColumns
from index_build.captions.cutting import UNTAGGED
from index_build.job import BuildSummary, build_index
from index_build.captions.nouns import NO_NOUNS, NOT_IN_CAPTION

__all__ = ["Appended", "append"]

_NOT_DRAWN = (DUPLICATE_ID, NO_NOUNS, NOT_IN_CAPTION)


@dataclass(frozen=True)
class Appended:
    """The grown index's manifest and the build of what was new; that is None, with the reason in `note`,
    where nothing new gave a prototype.
    """

    manifest: Manifest
    addition: BuildSummary | None
    note: str = ""


def append(index: str | Path, captions: str, columns: CaptionColumns, **options: Any) -> Appended:
    """Adds the prototypes of `captions` to an index on this machine, with its own preset and seed.

    Captions that were drawn for it before, by id and text, are passed over. Called again after an
    interruption, it goes on; the old index stays valid until the new one takes its place.
    options: of `build_index`, but for `overwrite`, `factory` and `weights`. Raises as `build_index` and
    `merge` do, and `OutputError` for an index that is part of the package.
    """
    folder = _locate(str(index))
    _require_own(folder)
    with locked(folder):
        _restore(folder)
        return _append(folder, captions, columns, **options)


def _append(folder: Path, captions: str, columns: CaptionColumns, **options: Any) -> Appended:
    opened = PrototypeIndex.open(folder, verify=True)
    if opened.manifest.fingerprints["diffusion"].startswith("unknown"):
        raise IndexMismatchError(
            f"'{folder}' was imported, and what made its pictures is not known; build an index beside it"
        )
    _clear(folder, opened.manifest)
    rows = open_captions(captions, columns)
    source = replace(rows, known=_known(opened))
    if not any(isinstance(item, Caption) for item in source):
        return Appended(opened.manifest, None, "all captions were in it already")
    config = BuildConfig(preset=_same_precision(opened), seed=opened.manifest.seed, **vars(columns))
    # Of these captions and this state of the index: an interrupted one is found again, no other is.
    state = opened.manifest.build_fingerprint[:8]
    addition = _beside(folder, f"addition-{rows.digest()[0][:8]}-{state}")
    try:
        summary = build_index(source, addition, config, weights=opened.manifest.fingerprints, **options)
    except NothingBuiltError as error:
        manifest = _grow(folder, opened, [], _new_rejects(opened, error.rejects))
        shutil.rmtree(addition)
        return Appended(manifest, None, str(error))
    manifest = _grow(folder, opened, [PrototypeIndex.open(addition)])
    shutil.rmtree(addition)
    return Appended(manifest, summary)


def _grow(
    folder: Path, opened: PrototypeIndex, additions: list[PrototypeIndex], rejects: pa.Table | None = None
) -> Manifest:
    """Puts an index with the additions, or with more rejects, in the place of the one in `folder`."""
    if not additions and not rejects:
        return opened.manifest
    grown = _beside(folder, "grown")
    kind = None if opened.manifest.factory == "Flat" else opened.manifest.factory
    merged = merge([opened, *additions], grown, factory=kind, overwrite=True, rejects=rejects)
    _swap(grown, folder)
    return merged.manifest


def _new_rejects(index: PrototypeIndex, found: pa.Table) -> pa.Table:
    known = {tuple(row.values()) for row in pq.read_table(index.folder / REJECTS).to_pylist()}
    return pa.Table.from_pylist(
        [row for row in found.to_pylist() if tuple(row.values()) not in known], found.schema
    )


def _same_precision(index: PrototypeIndex) -> Preset:
    """The index's preset with the precision its pictures had, whatever would be usual on this machine."""
    preset, precision = index.preset, cast(Precision, index.manifest.fingerprints["precision"])
    return replace(preset, synthesis=replace(preset.synthesis, precision=precision))


def _known(index: PrototypeIndex) -> frozenset[tuple[str, str]]:
    drawn = zip(index.column("caption_id"), index.column("caption"), strict=True)
    rejects = pq.read_table(index.folder / REJECTS).to_pylist()
    refused = ((row["caption_id"], row["caption"]) for row in rejects if _was_drawn(row["reason"]))
    return frozenset(drawn) | frozenset(refused)


def _was_drawn(reason: str) -> bool:
    """Whether a reject came as far as a task, and not only as far as the tagger."""
    return not (reason in _NOT_DRAWN or reason.startswith(UNTAGGED))


def _require_own(folder: Path) -> None:
    package = Path(freeda.__file__).resolve().parent
    if package in folder.parents or folder.parent == package.parent / "indexes":
        raise OutputError(
            f"'{folder.name}' comes with freeda; copy it first: `freeda index merge {folder.name} --out DIR`"
        )


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _clear(folder: Path, manifest: Manifest) -> None:
    """Removes what an append left that died after the grown index had taken its place."""
    shutil.rmtree(_beside(folder, "replaced"), ignore_errors=True)
    merged = {part["fingerprint"] for part in manifest.build.get("merged", ())}
    for addition in folder.parent.glob(f".{folder.name}.addition-*"):
        if (addition / MANIFEST).exists() and _fingerprint(addition) in merged:
            shutil.rmtree(addition)


def _fingerprint(folder: Path) -> str:
    return PrototypeIndex.open(folder).manifest.build_fingerprint


def _swap(new: Path, folder: Path) -> None:
    """Puts `new` in the place of `folder`, whose other files it takes along."""
    replaced = _beside(folder, "replaced")
    try:
        for path in _other_files(folder):
            if path.is_dir():
                shutil.copytree(path, new / path.name, dirs_exist_ok=True)
            else:
                shutil.copy2(path, new / path.name)
        os.rename(folder, replaced)
        os.rename(new, folder)
        shutil.rmtree(replaced)
    except OSError as error:
        raise OutputError(
            f"cannot put '{new}' in the place of '{folder}': {error.strerror or error}"
        ) from error


def _other_files(folder: Path) -> Iterator[Path]:
    """All but the index and its report, which tells of fewer prototypes."""
    return (path for path in folder.iterdir() if path.name not in (MANIFEST, REPORT, *FILES))


def _locate(name: str) -> Path:
    """Where an index is, or was when the process died that was replacing it."""
    for folder in (place.resolve() for place in search_paths(name)):
        if _beside(folder, "replaced").exists() and not folder.exists():
            return folder
    return find_index(name).resolve()


def _restore(folder: Path) -> None:
    """An index that was being replaced when its process died goes back to its place."""
    replaced = _beside(folder, "replaced")
    if replaced.exists() and not folder.exists():
        os.rename(replaced, folder)
