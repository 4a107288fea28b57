"""The folder that a build fills: its shards while it runs, the index when it is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from freeda.errors import IndexCorruptError, OutputError
from freeda.index.format import MANIFEST, Manifest, manifest_text, parse_manifest
from freeda.index.placing import placed
from freeda.index.reader import PrototypeIndex
from freeda.locking import locked
from freeda.presets import Preset
from index_build.config import build_id, differences
from index_build.store.storage import Folder

__all__ = ["BuildFolder", "exclusive", "staged"]

_WORK, _CONTENT = ".work", "build.json"
_SHOWN = 4
"""Differences between two builds that are listed."""


@contextmanager
def exclusive(out: Folder) -> Iterator[None]:
    """Keeps other runs from `out`; raises `OutputError` where one writes there.

    An object store has no locks: there, two runs of one build write the same bytes to the same names.
    """
    with locked(out.local) if out.local else nullcontext():
        yield


@dataclass(frozen=True)
class BuildFolder:
    """Where one build works and ends.

    out: of the index.
    content: everything that decides the prototypes, as plain data.
    """

    out: Folder
    content: Mapping[str, Any]

    @property
    def build_id(self) -> str:
        return build_id(self.content)

    def finished(self, *, overwrite: bool) -> Manifest | None:
        """The finished index of this very build, if there is one.

        Another build's index is replaced only if asked to: else `OutputError` is raised, which says what
        differs.
        """
        if overwrite or not self.out.exists(MANIFEST):
            return None
        try:
            manifest = _read_manifest(self.out)
        except IndexCorruptError as error:
            raise OutputError(
                f"'{self.out}' holds a damaged index ({error}); replace it with --overwrite"
            ) from error
        if manifest.build_fingerprint != self.build_id:
            raise OutputError(
                f"'{self.out}' holds an index of another build ({_shown(manifest.build, self.content)}); "
                f"replace it with --overwrite, or choose another --out"
            )
        return manifest

    def open_work(self) -> Folder:
        """The folder of the build's shards, created where there is none, with a note of the build's
        content.
        """
        work = self.out / f"{_WORK}/{self.build_id}"
        work.prepare()
        if not work.exists(_CONTENT):
            work.write(_CONTENT, json.dumps(self.content, sort_keys=True).encode())
        return work

    def other_builds(self) -> list[str]:
        """A line per unfinished build in the folder that this one cannot resume, and what differs."""
        notes = []
        for name in (self.out / _WORK).names():
            if name == self.build_id:
                continue
            note = self.out / f"{_WORK}/{name}"
            content = json.loads(note.read(_CONTENT)) if note.exists(_CONTENT) else {}
            notes.append(f"unfinished build {name} is kept but not resumed: {_shown(content, self.content)}")
        return notes

    def remove_work(self) -> None:
        """Removes the build's shards; other unfinished builds keep theirs."""
        self.out.discard(f"{_WORK}/{self.build_id}")
        if not (self.out / _WORK).names():
            self.out.discard(_WORK)

    def refresh_preset(self, manifest: Manifest, preset: Preset) -> Manifest:
        """Updates the numbers of a finished index that only the online stage reads, where they have
        changed.
        """
        changed = {**vars(manifest), "preset": json.loads(json.dumps(preset.shareable().as_dict()))}
        if changed["preset"] != dict(manifest.preset):
            self.out.write(MANIFEST, manifest_text(Manifest(**changed)).encode())
        return Manifest(**changed)


@contextmanager
def staged(out: Folder) -> Iterator[Path]:
    """A local folder to write an index to. For a remote `out` its files are uploaded at the end, manifest
    last.
    """
    if out.local:
        with placed(out.local) as folder:
            yield folder
        return
    with TemporaryDirectory(prefix="freeda-index-") as temporary:
        yield Path(temporary)
        out.discard(MANIFEST)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.name == MANIFEST):
            out.upload(path, path.name)


def _read_manifest(out: Folder) -> Manifest:
    if out.local:
        return PrototypeIndex.open(out.local).manifest
    return parse_manifest(out.read(MANIFEST), f"{out}/{MANIFEST}")


def _shown(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    found = differences(old, new)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
