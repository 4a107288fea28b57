"""What was fetched: a folder per version, complete once its note of where it came from is there."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from freeda.errors import IndexCorruptError, RemoteError
from freeda.files import replacing
from freeda.index.format import Manifest, check_files
from freeda.locking import locked

__all__ = ["Source", "completed", "fetching", "latest_version", "note_latest", "read_source"]

_SOURCE, _LATEST = "source.json", "latest.json"


@dataclass(frozen=True)
class Source:
    """Where an index was fetched from.

    address: as it was asked for.
    version: the hub's commit, or a digest of what the web server gave.
    fetched: date and time, ISO 8601.
    """

    address: str
    version: str
    fetched: str

    def __str__(self) -> str:
        return f"{self.address} ({self.version[:12]}, fetched {self.fetched[:10]})"


def read_source(folder: Path) -> Source | None:
    """Where the index in a folder was fetched from; None for one of this machine."""
    path = folder / _SOURCE
    return Source(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def completed(folder: Path) -> bool:
    """Whether everything was fetched and checked."""
    return (folder / _SOURCE).is_file()


@contextmanager
def fetching(folder: Path, address: str) -> Iterator[Callable[[Manifest], None]]:
    """Keeps others from a folder while it is filled. The block calls what it is given with the manifest, once
    every file is there: the digests are checked, and the folder is complete.

    Raises `RemoteError` for files that are not those of the manifest; they are removed.
    """

    def finish(manifest: Manifest) -> None:
        try:
            check_files(folder, manifest, digests=True)
        except IndexCorruptError as error:
            shutil.rmtree(folder)
            raise RemoteError(
                f"what was fetched from {address} is not the index that its manifest tells of ({error})"
            ) from error
        source = Source(address, folder.name, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        with replacing(folder / _SOURCE) as partial:
            partial.write_text(json.dumps(asdict(source), indent=2) + "\n", encoding="utf-8")

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        yield finish


def note_latest(base: Path, revision: str, version: str) -> None:
    """Remembers which version a revision stood for."""
    base.mkdir(parents=True, exist_ok=True)
    known = _latest(base)
    with replacing(base / _LATEST, shared=True) as partial:
        partial.write_text(json.dumps({**known, revision: version}), encoding="utf-8")


def latest_version(base: Path, revision: str, address: str, error: RemoteError) -> str:
    """The version that a revision stood for when it was asked for the last time, with a warning.

    Raises the error where none was fetched.
    """
    version = _latest(base).get(revision)
    if version is None or not completed(base / version):
        raise error
    source = read_source(base / version)
    warnings.warn(f"{error}; taking what was fetched before: {source}", stacklevel=2)
    return version


def _latest(base: Path) -> dict[str, str]:
    path = base / _LATEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
