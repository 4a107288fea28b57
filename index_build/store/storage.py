"""Folders on this machine or in an object store that fsspec reaches (s3://, gs://, ...)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from freeda.errors import CaptionsError, ConfigError, OutputError, reason
from freeda.files import replacing
from freeda.index.format import KEYS, MANIFEST

__all__ = ["Folder", "find_parquet"]

_READ_AHEAD = 8
"""Files read at once, for an object store takes long over each."""
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az"}


class Folder:
    """A folder by path or URL, whose files appear whole or not at all.

    Workers open it again by its URL, with their own credentials.
    """

    def __init__(self, url: str | Path) -> None:
        self._files, self._root = _file_system(str(url))
        self.url: str = self._files.unstrip_protocol(self._root) if not self.local else self._root

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url}/{name}")

    @property
    def local(self) -> Path | None:
        """The folder on this machine's disk, None elsewhere."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def prepare(self) -> None:
        """Creates the folder where there is none; raises `OutputError` where it cannot be written to."""
        if _protocols(self._files) & _OBJECT_STORES:
            return  # they have no folders, and s3fs would create a bucket for a misspelt name
        try:
            self._files.makedirs(self._root, exist_ok=True)
        except _errors() as error:
            raise OutputError(f"cannot create '{self}': {reason(error)}; choose another --out") from error
        if self.local and not os.access(self.local, os.W_OK):
            raise OutputError(f"cannot write to '{self}'; choose another --out")

    def exists(self, name: str) -> bool:
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file. Raises `OutputError` where that is unknown."""
        try:
            return int(self._files.info(self._path(name))["size"] or 0)
        except FileNotFoundError:
            return None
        except _errors() as error:
            raise OutputError(f"cannot look for '{self._path(name)}': {reason(error)}") from error

    def read(self, name: str) -> bytes:
        """The whole file; raises `FileNotFoundError`, `OutputError`."""
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            raise
        except _errors() as error:
            raise OutputError(f"cannot read '{self._path(name)}': {reason(error)}") from error

    def read_all(self, names: Iterable[str]) -> Iterator[bytes]:
        """Whole files that are known to exist, in order, read a few ahead. Raises `OutputError`."""
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
        """Replaces a file: a reader, or a run after a power cut, finds the old or the new one.

        Raises `OutputError`.
        """
        try:
            if self.local:
                with replacing(self.local / name, shared=True) as partial:
                    partial.write_bytes(content)
            else:
                self._files.pipe_file(self._path(name), content)
        except _errors() as error:
            raise OutputError(f"cannot write '{self._path(name)}': {reason(error)}") from error

    def upload(self, source: Path, name: str) -> None:
        """Copies a file of this machine here; raises `OutputError`."""
        try:
            self._files.put_file(str(source), self._path(name))
        except _errors() as error:
            raise OutputError(f"cannot write '{self._path(name)}': {reason(error)}") from error

    def names(self) -> list[str]:
        """Names of all files and folders inside, sorted; none where there is no folder. Raises
        `OutputError`.
        """
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Bytes of all files inside, by name, from one listing; raises `OutputError`."""
        while True:
            try:
                found = self._files.ls(self._root, detail=True)
                return {item["name"].rstrip("/").rsplit("/", 1)[-1]: int(item["size"] or 0) for item in found}
            except FileNotFoundError:  # of the folder, or of a file that went while it was being listed
                if not (self.local and self.local.exists()):
                    return {}
            except _errors() as error:
                raise OutputError(f"cannot list '{self}': {reason(error)}") from error

    def discard(self, name: str) -> None:
        """Removes a file or a folder with all it holds, if there is one; raises `OutputError`."""
        try:
            self._files.rm(self._path(name), recursive=True)
        except FileNotFoundError:
            return
        except _errors() as error:
            raise OutputError(f"cannot remove '{self._path(name)}': {reason(error)}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def find_parquet(source: str) -> tuple[AbstractFileSystem, list[str]]:
    """The parquet files at a path or URL of a file, a folder or a glob, in order.

    In a folder, hidden files and files of an index (beside a manifest and keys) are left out.
    Raises `CaptionsError`.
    """
    files, path = _file_system(source)
    try:
        return files, _find(files, path)
    except _errors() as error:
        raise CaptionsError(f"'{source}' cannot be read: {reason(error)}") from error


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
    """Without caching of listings, for other processes write there too."""
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


def _protocols(files: AbstractFileSystem) -> set[str]:
    return {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
