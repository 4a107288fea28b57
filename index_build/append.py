"""New captions into a finished index: built beside it with its own settings, then merged in its place."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freeda.errors import NothingBuiltError, OutputError
from freeda.index import PrototypeIndex, find_index
from freeda.index_editing import merge
from freeda.index_format import Manifest
from freeda.records import Caption
from index_build.captions import open_captions
from index_build.config import BuildConfig, CaptionColumns
from index_build.job import BuildSummary, build_index

__all__ = ["Appended", "append"]


@dataclass(frozen=True)
class Appended:
    """The grown index's manifest, and the build of what was new; None where that gave no prototype."""

    manifest: Manifest
    addition: BuildSummary | None


def append(index: str | Path, captions: str, columns: CaptionColumns, **options: Any) -> Appended:
    """Adds the prototypes of `captions` to an index on this machine, with its own preset and seed.

    Captions that have a prototype in it already, by id and text, are passed over. Called again after an
    interruption, it goes on; the old index stays valid until the new one takes its place.
    options: of `build_index`, but for `overwrite`. Raises as `build_index` and `merge` do.
    """
    folder = _restored(Path(index)) or find_index(str(index)).resolve()
    opened = PrototypeIndex.open(folder, verify=True)
    source = replace(open_captions(captions, columns), known=_known(opened))
    if not any(isinstance(item, Caption) for item in source):
        return Appended(opened.manifest, None)
    config = BuildConfig(preset=opened.preset, seed=opened.manifest.seed, **vars(columns))
    addition, grown = _beside(folder, "addition"), _beside(folder, "grown")
    try:
        summary = build_index(source, addition, config, **options)
    except NothingBuiltError:
        shutil.rmtree(addition)
        return Appended(opened.manifest, None)
    merged = merge([opened, PrototypeIndex.open(addition)], grown, overwrite=True)
    _swap(grown, folder)
    shutil.rmtree(addition)
    return Appended(merged.manifest, summary)


def _known(index: PrototypeIndex) -> frozenset[tuple[str, str]]:
    rows = index.rows(range(len(index)), ["caption_id", "caption"])
    return frozenset((row["caption_id"], row["caption"]) for row in rows)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _swap(new: Path, folder: Path) -> None:
    replaced = _beside(folder, "replaced")
    try:
        os.rename(folder, replaced)
        os.rename(new, folder)
        shutil.rmtree(replaced)
    except OSError as error:
        raise OutputError(
            f"cannot put '{new}' in the place of '{folder}': {error.strerror or error}"
        ) from error


def _restored(folder: Path) -> Path | None:
    """An index that was being replaced when its process died goes back to its place."""
    folder = folder.resolve()
    replaced = _beside(folder, "replaced")
    if folder.exists() or not replaced.exists():
        return None
    os.rename(replaced, folder)
    return folder
