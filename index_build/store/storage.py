"""Folders on this machine or in an object store that fsspec reaches (s3://, gs://, ...): files appear whole
or not at all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from freeda.errors import CaptionsError, ConfigError, OutputError
from freeda.index.format import KEYS, MANIFEST

__all__ = ["Place", "find_parquet"]

_READ_AHEAD = 8
"""Files read at once: an object store takes its time over each."""
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}


class Place:
    """A folder by path or URL. Workers open it anew by that URL, with credentials of their own."""

    def __init__(self, url: str | Path) -> None:
        self._files, self._root = _file_system(str(url))
        self.url: str = self._files.unstrip_protocol(self._root) if not self.local else self._root

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.url}/{name}")

    @property
    def local(self) -> Path | None:
        """The folder on this machine's disk, None elsewhere."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def prepare(self) -> None:
        """Makes the folder; raises `OutputError` where that, or writing into it, cannot be."""
        if _protocols(self._files) & _OBJECT_STORES:
            return  # they have no folders, and s3fs would make a bucket of a misspelt name
        try:
            self._files.makedirs(self._root, exist_ok=True)
        except _errors() as error:
            raise OutputError(f"cannot create '{self}': {_reason(error)}; choose another --out") from error
        if self.local and not os.access(self.local, os.W_OK):
            raise OutputError(f"cannot write to '{self}'; choose another --out")

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file. Raises `OutputError` where nobody can tell."""
        try:
            return int(self._files.info(self._path(name))["size"] or 0)
        except FileNotFoundError:
            return None
        except _errors() as error:
            raise OutputError(f"cannot look for '{self._path(name)}': {_reason(error)}") from error

    def read(self, name: str) -> bytes:
        """The whole file; raises `FileNotFoundError`, `OutputError`."""
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            raise
        except _errors() as error:
            raise OutputError(f"cannot read '{self._path(name)}': {_reason(error)}") from error

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Whole files that are known to be there, in order, a few ahead of the one that is asked for.

        Raises `OutputError`.
        """
        with ThreadPoolExecutor(_READ_AHEAD, "freeda-reading") as threads:
            ahead: deque[Future[bytes]] = deque()
            for name in names:
                ahead.append(threads.submit(self._read_known, name))
                if len(ahead) == _READ_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read_known(self, name: str) -> bytes:
        try:
            return self.read(name)
        except FileNotFoundError as error:
            raise OutputError(
                f"'{self._path(name)}' has gone; does another run write there? Run the same command again"
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file at once: a reader, or a run after a power cut, finds the old or the new one.

        Raises `OutputError`.
        """
        try:
            if self.local:
                _replace(self.local / name, content)
            else:
                self._files.pipe_file(self._path(name), content)
        except _errors() as error:
            raise OutputError(f"cannot write '{self._path(name)}': {_reason(error)}") from error

    def upload(self, source: Path, name: str) -> None:
        """Copies a file of this machine here; raises `OutputError`."""
        try:
            self._files.put_file(str(source), self._path(name))
        except _errors() as error:
            raise OutputError(f"cannot write '{self._path(name)}': {_reason(error)}") from error

    def names(self) -> list[str]:
        """What lies in the folder, sorted; nothing where there is no folder. Raises `OutputError`."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """What lies in the folder by name, in bytes, from one listing; raises `OutputError`."""
        while True:
            try:
                found = self._files.ls(self._root, detail=True)
                return {item["name"].rstrip("/").rsplit("/", 1)[-1]: int(item["size"] or 0) for item in found}
            except FileNotFoundError:  # of the folder, or of a file that went while it was being listed
                if not (self.local and self.local.exists()):
                    return {}
            except _errors() as error:
                raise OutputError(f"cannot list '{self}': {_reason(error)}") from error

    def discard(self, name: str) -> None:
        """Removes a file or a folder with all it holds, if there is one; raises `OutputError`."""
        try:
            self._files.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            return
        except _errors() as error:
            raise OutputError(f"cannot remove '{self._path(name)}': {_reason(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def find_parquet(source: str) -> tuple[AbstractFileSystem, list[str]]:
    """The parquet files that a path or URL of a file, a folder or a glob means, in order.

    Of a folder, hidden files and those of an index (they lie beside a manifest and keys) are left out.
    Raises `CaptionsError`.
    """
    files, path = _file_system(source)
    try:
        return files, _find(files, path)
    except _errors() as error:
        raise CaptionsError(f"'{source}' cannot be read: {_reason(error)}") from error


def _find(files: AbstractFileSystem, path: str) -> list[str]:
    if files.isdir(path):
        found = sorted(name for name in files.find(path) if name.endswith(".parquet"))
        return [name for name in found if _is_input(files, name, path)]
    return [path] if files.isfile(path) else sorted(str(name) for name in files.glob(path))


def _is_input(files: AbstractFileSystem, name: str, root: str) -> bool:
    parts: Sequence[str] = name[len(root) :].split("/")
    hidden = any(part.startswith(".") for part in parts)
    folder = name.rsplit("/", 1)[0]
    return not hidden and not all(files.exists(f"{folder}/{part}") for part in (MANIFEST, KEYS))


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Without a listing's cache, for other processes write there too."""
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        files, path = url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"'{url}' is out of reach: {str(error).splitlines()[0]}; for s3:// install freeda[s3]"
        ) from error
    return files, str(path).rstrip("/") or "/"


@lru_cache(maxsize=1)
def _errors() -> tuple[type[Exception], ...]:
    """What storage raises; botocore's own errors are no `OSError`."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _protocols(files: AbstractFileSystem) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on no content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
