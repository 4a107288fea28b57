"""What was fetched: a folder per version, complete once its note of where it came from is there."""

from __future__ import annotations

import errno
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from freeda.errors import IndexCorruptError, OutputError, RemoteError, UnreachableError, printable, reason
from freeda.files import replacing, user_folder
from freeda.index.format import Manifest, check_files, read_manifest
from freeda.locking import locked

__all__ = [
    "Source",
    "completed",
    "fetching",
    "is_local",
    "latest_version",
    "local_error",
    "note_latest",
    "read_source",
    "require_space",
]

_SOURCE, _LATEST = "source.json", "latest.json"
_LOCAL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM}
"""Errors of this machine's disk, not of a network."""


@dataclass(frozen=True)
class Source:
    """Where an index was fetched from.

    address: as it was asked for, without what may be a key.
    version: the hub's commit, or a digest of what the web server gave.
    fetched: date and time, ISO 8601.
    """

    address: str
    version: str
    fetched: str

    def __str__(self) -> str:
        return printable(f"{self.address} ({self.version[:12]}, fetched {self.fetched[:10]})")


def read_source(folder: Path) -> Source | None:
    """Where the index in a folder was fetched from; None for one that this machine did not fetch."""
    path = folder / _SOURCE
    if not folder.resolve().is_relative_to(_fetched_folder()) or not path.is_file():
        return None
    return Source(**json.loads(path.read_text(encoding="utf-8")))


def _fetched_folder() -> Path:
    return (user_folder() / "fetched").resolve()


def completed(folder: Path, *, verify: bool = False) -> bool:
    """Whether everything was fetched and checked. verify: checks all digests once more; a folder with another
    byte is removed, with a warning.
    """
    if not (folder / _SOURCE).is_file():
        return False
    if verify:
        try:
            check_files(folder, read_manifest(folder), digests=True)
        except IndexCorruptError as error:
            warnings.warn(f"{error}; fetching it again", stacklevel=2)
            shutil.rmtree(folder)
            return False
    return True


@contextmanager
def fetching(folder: Path, address: str) -> Iterator[Callable[[Manifest], None] | None]:
    """Keeps others from a folder while it is filled, and waits for them.

    The block calls what it is given with the manifest, once every file is there: the digests are checked, and
    the folder is complete. It is given None where others have completed the folder meanwhile.
    Raises `RemoteError` for files that are not those of the manifest; they are removed. `OutputError` for a
    folder that cannot be written.
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

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise local_error(folder, error) from error
    with locked(folder, wait=True):
        yield None if completed(folder) else finish


def require_space(folder: Path, manifest: Manifest, address: str) -> None:
    """Raises `OutputError` where an index is larger than the free space."""
    needed, free = sum(manifest.sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"the index at {address} takes {needed / 1e9:,.1f} GB, and '{folder}' has {free / 1e9:,.1f} GB "
            f"free; set FREEDA_HOME to a larger disk"
        )


def local_error(folder: Path, error: OSError) -> OutputError:
    """An error of this machine's disk, with what helps."""
    return OutputError(f"cannot write to '{folder}': {reason(error)}; set FREEDA_HOME to another folder")


def is_local(error: OSError) -> bool:
    """Whether an error is of this machine's disk."""
    return error.errno in _LOCAL


def note_latest(base: Path, revision: str, version: str) -> None:
    """Remembers which version a revision stood for, where the folder can be written."""
    known = _latest(base)
    if known.get(revision) == version:
        return
    with suppress(OSError), replacing(base / _LATEST, shared=True) as partial:
        partial.write_text(json.dumps({**known, revision: version}), encoding="utf-8")


def latest_version(base: Path, revision: str, error: UnreachableError) -> str:
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
    """Versions by revision; none where the note is damaged, for it can be made anew."""
    try:
        return dict(json.loads((base / _LATEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
