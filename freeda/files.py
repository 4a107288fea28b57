"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["file_digest", "replacing", "sync", "user_folder"]


def user_folder() -> Path:
    """Where a user's own indexes and presets lie: `$FREEDA_HOME`, or `~/.freeda`."""
    return Path(os.environ.get("FREEDA_HOME", Path.home() / ".freeda"))


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; when the block ends it takes the place of `path`.

    A reader, or a run after a power cut, finds the old file or the new one. Where the block raises, the old
    one stays.
    shared: whether several processes may write the file at once, so that each needs a path of its own.
    """
    owner = f".{uuid4().hex[:12]}" if shared else ""
    partial = path.with_name(f".{path.name}{owner}.partial")
    try:
        yield partial
        sync(partial)  # else a power cut may leave the new name without content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path) -> str:
    """The sha256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
