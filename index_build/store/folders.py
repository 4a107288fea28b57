"""The folder an index is built in: checked for another index, filled, cleared of finished work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freeda.presets.settings import Preset
from freeda.errors import IndexCorruptError, OutputError
from freeda.index.reader import PrototypeIndex
from freeda.index.format import MANIFEST, Manifest, manifest_text, parse_manifest
from freeda.locking import locked
from index_build.config import differences
from index_build.store.storage import Place

__all__ = ["alone", "check_target", "open_work", "other_builds", "refresh_preset", "remove_work", "staged"]

_WORK, _CONTENT = ".work", "build.json"


@contextmanager
def alone(out: Place) -> Iterator[None]:
    """Keeps other runs from `out`, but not in an object store: it has no locks, and two runs of one build
    write the same bytes to the same names there. Raises `OutputError`.
    """
    with locked(out.local) if out.local else nullcontext():
        yield


def check_target(
    out: Place, fingerprint: str, content: Mapping[str, Any], overwrite: bool
) -> Manifest | None:
    """The finished index of this very build, if there; another build's is replaced on request only.

    Raises `OutputError`, which says what differs.
    """
    if overwrite or not out.exists(MANIFEST):
        return None
    try:
        manifest = _finished(out)
    except IndexCorruptError as error:
        raise OutputError(f"'{out}' holds a damaged index ({error}); replace it with --overwrite") from error
    if manifest.build_fingerprint != fingerprint:
        raise OutputError(
            f"'{out}' holds an index of another build ({_told(manifest.build, content)}); replace it with "
            f"--overwrite, or choose another --out"
        )
    return manifest


def refresh_preset(out: Place, manifest: Manifest, preset: Preset) -> Manifest:
    """Gives a finished index the numbers that only the online stage reads, where they have changed."""
    changed = {**vars(manifest), "preset": json.loads(json.dumps(preset.as_dict()))}
    if changed["preset"] != dict(manifest.preset):
        out.write(MANIFEST, manifest_text(Manifest(**changed)).encode())
    return Manifest(**changed)


def open_work(out: Place, fingerprint: str, content: Mapping[str, Any]) -> Place:
    """The folder of a build's shards, made if need be, with a note of what it depends on."""
    work = out / f"{_WORK}/{fingerprint}"
    work.prepare()
    if not work.exists(_CONTENT):
        work.write(_CONTENT, json.dumps(content, sort_keys=True).encode())
    return work


def other_builds(out: Place, fingerprint: str, content: Mapping[str, Any]) -> list[str]:
    """A line for every unfinished build in `out` that this one does not go on with, and why not."""
    notes = []
    for name in (out / _WORK).names():
        if name == fingerprint:
            continue
        note = out / f"{_WORK}/{name}"
        old = json.loads(note.read(_CONTENT)) if note.exists(_CONTENT) else {}
        notes.append(f"unfinished build {name} stays aside: {_told(old, content)}")
    return notes


def remove_work(out: Place, fingerprint: str) -> None:
    """Other builds' unfinished work beside it stays."""
    out.discard(f"{_WORK}/{fingerprint}")
    if not (out / _WORK).names():
        out.discard(_WORK)


@contextmanager
def staged(out: Place) -> Iterator[Path]:
    """A local folder for the index's files; to a remote place they are sent at the end, manifest last."""
    if out.local:
        yield out.local
        return
    with TemporaryDirectory(prefix="freeda-index-") as folder:
        yield Path(folder)
        out.discard(MANIFEST)
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == MANIFEST):
            out.upload(path, path.name)


def _finished(out: Place) -> Manifest:
    if out.local:
        return PrototypeIndex.open(out.local).manifest
    return parse_manifest(out.read(MANIFEST), f"{out}/{MANIFEST}")


def _told(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    found = differences(old, new)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return "; ".join(found[:4]) + more
