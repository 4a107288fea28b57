"""Which results are there already, so that a command that is run again resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Finished", "Planned"]

_FINISHED = ".finished.jsonl"
"""In the folder of the results: a line per finished file, with what it was made of."""


@dataclass(frozen=True)
class Planned:
    """A file to segment and where its results go.

    name: their path, relative to the folder of all results and without an ending.
    state: the file's path, size and time of change; None where there is no such file.
    """

    path: Path
    name: Path
    state: tuple[str, int, int] | None

    @classmethod
    def of(cls, path: Path, name: Path) -> Planned:
        try:
            held = path.stat()
        except OSError:
            return cls(path, name, None)  # reading the file tells why
        return cls(path, name, (str(path.resolve()), held.st_size, held.st_mtime_ns))


class Finished:
    """The results in a folder that are complete.

    made_by: what results depend on besides the file itself, as plain data.
    """

    def __init__(self, out: Path, made_by: Any) -> None:
        self._out, self._made_by = out, made_by
        self._entries = dict(_read(out / _FINISHED))

    def entry(self, item: Planned) -> dict[str, Any] | None:
        """The "files" and "segments" of a file whose results are there, of the same making; else None."""
        entry = self._entries.get(str(item.name))
        if entry is None or item.state is None or entry["made_of"] != self._made_of(item):
            return None
        return entry if all((self._out / name).exists() for name in entry["files"]) else None

    def note(self, item: Planned, files: Sequence[Path], segments: Sequence[dict[str, Any]]) -> None:
        """Remembers that a file is finished."""
        entry = {
            "name": str(item.name),
            "made_of": self._made_of(item),
            "files": [str(path.relative_to(self._out)) for path in files],
            "segments": list(segments),
        }
        with (self._out / _FINISHED).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry))  # first, for the line before may be half written

    def _made_of(self, item: Planned) -> str:
        """A digest of all that a file's results depend on."""
        text = json.dumps([item.state, self._made_by], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names with their entries; a line that a killed run left half written is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.keys() >= {"name", "made_of", "files", "segments"}:
            yield entry["name"], entry
