"""New captions into a finished index: built beside it with its settings, then merged into its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

import freeda
from freeda.errors import ConfigError, IndexMismatchError, NothingBuiltError, OutputError, reason
from freeda.index.editing import merge
from freeda.index.finding import find_index, search_paths
from freeda.index.format import FILES, MANIFEST, REPORT, Manifest
from freeda.index.keys import KeyOptions
from freeda.index.reader import PrototypeIndex
from freeda.index.sharing.fetched import read_source
from freeda.locking import locked
from freeda.presets import Preset
from freeda.presets.settings import PRECISIONS
from freeda.presets.trust import known_models
from freeda.records import Caption
from index_build.captions.nouns import (
    NO_NOUNS,
    NOT_IN_CAPTION,
    NOUN_TOO_LONG,
    UNTAGGED,
    tagging_identity,
)
from index_build.captions.reader import DUPLICATE_ID, TOO_LONG, CaptionSource, open_captions
from index_build.captions.taggers import DEFAULT_TAGGER, open_tagger
from index_build.cluster.connection import Resources
from index_build.cluster.progress import OnProgress, Progress
from index_build.cluster.quarantine import is_quarantine
from index_build.config import ROLES, BuildConfig, CaptionColumns, differences
from index_build.job import BuildSummary, build_index

__all__ = ["Appended", "append"]

_NOT_DRAWN = (DUPLICATE_ID, TOO_LONG, NO_NOUNS, NOT_IN_CAPTION, NOUN_TOO_LONG)


@dataclass(frozen=True)
class Appended:
    """What an append did.

    manifest: of the grown index.
    addition: the build of the new captions; None where nothing new gave a prototype, for the reason in
        `note`.
    """

    manifest: Manifest
    addition: BuildSummary | None
    note: str = ""


def append(
    index: str | Path,
    captions: str,
    columns: CaptionColumns,
    *,
    tagger: str | None = None,
    resources: Resources | None = None,
    trust_models: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> Appended:
    """Adds the prototypes of `captions` to an index on this machine, with its own preset and seed.

    Captions that were drawn for it before, by id and text, are skipped. Called again after an interruption,
    it resumes; the old index stays valid until the new one takes its place.
    tagger: by whose tags nouns are found; None takes the one that the index was built with.
    trust_models: whether to load models that the index names and no preset of this machine does.
    Raises as `build_index` and `merge` do, and `OutputError` for an index that is part of the package.
    """
    folder = _locate(index)
    _require_own(folder)
    with locked(folder):
        _restore(folder)
        preset = known_models(PrototypeIndex.open(folder).preset, ROLES, folder.name, trust=trust_models)
        rows = open_captions(captions, columns)
        return _append(folder, preset, rows, columns, tagger, resources or Resources(), on_progress)


def _append(
    folder: Path,
    preset: Preset,
    rows: CaptionSource,
    columns: CaptionColumns,
    tagger: str | None,
    resources: Resources,
    on_progress: OnProgress,
) -> Appended:
    opened = PrototypeIndex.open(folder, verify=True)
    if opened.manifest.fingerprints["diffusion"].startswith("unknown"):
        raise IndexMismatchError(
            f"'{folder}' was imported, and the model that made its images is not known; "
            f"build an index beside it"
        )
    _clear(folder, opened.manifest)
    source = replace(rows, known=_known(opened))
    if not any(isinstance(item, Caption) for item in source):
        return Appended(opened.manifest, None, "all captions were in it already")
    tried = _tried_again(opened, source)
    config = BuildConfig(
        preset=_same_precision(opened, preset),
        seed=opened.manifest.seed,
        tagger=tagger or _tagger(opened.manifest),
        **vars(columns),
    )
    if note := _changed_tagging(opened.manifest, config.tagger):
        on_progress(Progress(total=0, note=note))
    # Named by these captions and this state of the index: only the same addition is resumed.
    state = opened.manifest.build_fingerprint[:8]
    addition = _beside(folder, f"addition-{rows.digest()[0][:8]}-{state}")
    same_models = replace(resources, models=opened.manifest.fingerprints)
    try:
        summary = build_index(source, addition, config, resources=same_models, on_progress=on_progress)
    except NothingBuiltError as error:
        manifest = _grow(
            folder, opened, [], tried, resources.index_device, _new_rejects(opened, error.rejects)
        )
        shutil.rmtree(addition)
        return Appended(manifest, None, str(error))
    manifest = _grow(folder, opened, [PrototypeIndex.open(addition)], tried, resources.index_device)
    shutil.rmtree(addition)
    return Appended(manifest, summary)


def _tried_again(index: PrototypeIndex, source: CaptionSource) -> set[tuple[str, str]]:
    """Ids and texts of the captions given that had been set aside for what happened to their tasks."""
    rejects = index.rejects().to_pylist()
    aside = {(row["caption_id"], row["caption"]) for row in rejects if is_quarantine(row["reason"])}
    if not aside:
        return aside
    given = ((item.id, item.text) for item in source if isinstance(item, Caption))
    return aside.intersection(given)


def _grow(
    folder: Path,
    opened: PrototypeIndex,
    additions: list[PrototypeIndex],
    tried_again: Collection[tuple[str, str]],
    index_device: str,
    rejects: pa.Table | None = None,
) -> Manifest:
    """Replaces the index in `folder` by one with the additions, or with more rejects."""
    if not additions and not rejects:
        return opened.manifest
    grown = _beside(folder, "grown")
    kind = None if opened.manifest.factory == "Flat" else opened.manifest.factory
    merged = merge(
        [opened, *additions],
        grown,
        keys=KeyOptions(factory=kind, device=index_device),
        overwrite=True,
        rejects=rejects,
        tried_again=tried_again,
    )
    _swap(grown, folder)
    return merged.manifest


def _new_rejects(index: PrototypeIndex, found: pa.Table) -> pa.Table:
    known = {tuple(row.values()) for row in index.rejects().to_pylist()}
    return pa.Table.from_pylist(
        [row for row in found.to_pylist() if tuple(row.values()) not in known], found.schema
    )


def _tagger(manifest: Manifest) -> str:
    """The tagger of an index's builds; indexes older than the choice were built with the default one."""
    names = {str(item.get("tagger", DEFAULT_TAGGER)) for item in _taggings(manifest.build)}
    if len(names) > 1:
        raise ConfigError(f"the index was built with {' and '.join(sorted(names))}; choose with --tagger")
    return names.pop() if names else DEFAULT_TAGGER


def _changed_tagging(manifest: Manifest, tagger: str) -> str:
    """What is to be said where these captions are tagged otherwise than the index's; empty where alike."""
    now = tagging_identity(open_tagger(tagger))
    changes = {line for old in _taggings(manifest.build) for line in differences(old, now)}
    return f"these captions are tagged otherwise: {'; '.join(sorted(changes))}" if changes else ""


def _taggings(build: Any) -> Iterator[Mapping[str, Any]]:
    """How nouns were found in a build, or in each of those that a merge or a subset was made of."""
    if isinstance(build, Mapping):
        tagging = build.get("tagging")
        if tagging is not None:
            yield tagging if isinstance(tagging, Mapping) else {"rules": tagging}
    if isinstance(build, Mapping | list):
        for part in build.values() if isinstance(build, Mapping) else build:
            yield from _taggings(part)


def _same_precision(index: PrototypeIndex, preset: Preset) -> Preset:
    """The preset, with the precision that the index's images were generated in."""
    precision = index.manifest.fingerprints.get("precision")
    if precision not in PRECISIONS:
        raise IndexMismatchError(
            f"'{index.folder}' was built in precision '{precision}'; expected one of {', '.join(PRECISIONS)}"
        )
    return replace(preset, synthesis=replace(preset.synthesis, precision=precision))


def _known(index: PrototypeIndex) -> frozenset[tuple[str, str]]:
    drawn = zip(index.column("caption_id"), index.column("caption"), strict=True)
    rejects = index.rejects().to_pylist()
    refused = ((row["caption_id"], row["caption"]) for row in rejects if _was_drawn(row["reason"]))
    return frozenset(drawn) | frozenset(refused)


def _was_drawn(why: str) -> bool:
    """Whether a picture was made of a rejected caption, which would give the same again.

    Those that the tagger refused and those whose task failed are tried again.
    """
    return not (why in _NOT_DRAWN or why.startswith(UNTAGGED) or is_quarantine(why))


def _require_own(folder: Path) -> None:
    package = Path(freeda.__file__).resolve().parent
    if (source := read_source(folder)) is not None:
        raise OutputError(
            f"'{folder}' is a copy of {source.address}; take one of your own first: "
            f"`freeda index pull {source.address} --out DIR`"
        )
    if package in folder.parents or folder.parent == package.parent / "indexes":
        raise OutputError(
            f"'{folder.name}' comes with freeda; copy it first: `freeda index merge {folder.name} --out DIR`"
        )


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _clear(folder: Path, manifest: Manifest) -> None:
    """Removes what an append left that was killed after the grown index had taken its place."""
    shutil.rmtree(_beside(folder, "replaced"), ignore_errors=True)
    merged = {part["fingerprint"] for part in manifest.build.get("merged", ())}
    for addition in folder.parent.glob(f".{folder.name}.addition-*"):
        if (addition / MANIFEST).exists() and _build_id(addition) in merged:
            shutil.rmtree(addition)


def _build_id(folder: Path) -> str:
    return PrototypeIndex.open(folder).manifest.build_fingerprint


def _swap(new: Path, folder: Path) -> None:
    """Replaces `folder` by `new`, and keeps the other files that lie in it."""
    replaced = _beside(folder, "replaced")
    try:
        for path in _other_files(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, new / path.name, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, new / path.name, follow_symlinks=False)
        os.rename(folder, replaced)
        os.rename(new, folder)
        shutil.rmtree(replaced)
    except OSError as error:
        raise OutputError(f"cannot put '{new}' in the place of '{folder}': {reason(error)}") from error


def _other_files(folder: Path) -> Iterator[Path]:
    """All files but the index's and its report, which describes fewer prototypes."""
    return (path for path in folder.iterdir() if path.name not in (MANIFEST, REPORT, *FILES))


def _locate(name: str | Path) -> Path:
    """Where an index is, or was when the process that replaced it was killed."""
    for folder in (path.resolve() for path in search_paths(name)):
        if _beside(folder, "replaced").exists() and not folder.exists():
            return folder
    return find_index(name).resolve()


def _restore(folder: Path) -> None:
    """Puts an index back that was being replaced when the process was killed."""
    replaced = _beside(folder, "replaced")
    if replaced.exists() and not folder.exists():
        os.rename(replaced, folder)
