"""`fetch_index`: the index at an address as a folder of this machine, checked byte by byte."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from freeda.errors import FreedaError, IndexCorruptError, RemoteError, UnreachableError, reason
from freeda.files import file_digest, replacing
from freeda.index.format import MANIFEST, Manifest, parse_manifest
from freeda.index.sharing.addresses import HubAddress, WebAddress, parse_address
from freeda.index.sharing.fetched import (
    completed,
    fetching,
    is_local,
    latest_version,
    local_error,
    note_latest,
    require_space,
)
from freeda.index.sharing.hub import fetch_file, is_commit, resolve_commit
from freeda.index.sharing.web import fetch, version_of

__all__ = ["fetch_index"]

_MANIFEST_BYTES = 64 * 2**20
_BLOCK = 2**20


def fetch_index(address: str, *, verify: bool = False) -> Path:
    """The folder of the index at an address.

    Only the files of an index are fetched, and only where this version is not here yet; an interrupted fetch
    resumes with the files that are missing. Where the address cannot be reached, what was fetched before is
    taken, with a warning.
    verify: whether to check the digests of what was fetched before, and fetch it again where one differs.
    Raises `ConfigError` for what is no address, `RemoteError`, `OutputError`.
    """
    parsed = parse_address(address)
    if isinstance(parsed, HubAddress):
        return _from_hub(parsed, verify)
    return _from_archive(parsed, verify) if parsed.is_archive else _from_folder(parsed, verify)


def _from_hub(address: HubAddress, verify: bool) -> Path:
    base, shown = address.folder, str(address)
    if is_commit(address.revision) and completed(base / address.revision, verify=verify):
        return base / address.revision
    try:
        commit = resolve_commit(address)
    except UnreachableError as error:
        return base / latest_version(base, address.revision, error)
    folder = base / commit
    if not completed(folder, verify=verify):
        with fetching(folder, shown) as finish:
            if finish is not None:
                fetch_file(address, commit, MANIFEST, folder, most=_MANIFEST_BYTES)
                manifest = _read(folder, shown)
                require_space(folder, manifest, shown)
                for name, size in manifest.sizes.items():
                    fetch_file(address, commit, name, folder, most=size)
                finish(manifest)
    note_latest(base, address.revision, commit)
    return folder


def _from_folder(address: WebAddress, verify: bool) -> Path:
    """The manifest tells the version, so it is fetched each time."""
    base, shown = address.folder, str(address)
    try:
        with TemporaryDirectory(prefix="freeda-") as temporary:
            new = Path(temporary) / MANIFEST
            fetch(address.file(MANIFEST), new, most=_MANIFEST_BYTES)
            content = new.read_bytes()
    except UnreachableError as error:
        return base / latest_version(base, "", error)
    manifest = _parse(content, shown)
    folder = base / hashlib.sha256(content).hexdigest()[:40]
    if not completed(folder, verify=verify):
        with fetching(folder, shown) as finish:
            if finish is not None:
                require_space(folder, manifest, shown)
                (folder / MANIFEST).write_bytes(content)
                for name, size in manifest.sizes.items():
                    fetch(address.file(name), folder / name, most=size)
                finish(manifest)
    note_latest(base, "", folder.name)
    return folder


def _from_archive(address: WebAddress, verify: bool) -> Path:
    """The version is what the server tells of the archive. Where it tells nothing, the archive is fetched and
    its digest taken.
    """
    base, shown = address.folder, str(address)
    unknown = base / ".archive"
    try:
        version = version_of(address.url) or _fetched_digest(address, unknown)
    except UnreachableError as error:
        return base / latest_version(base, "", error)
    folder = base / hashlib.sha256(version.encode()).hexdigest()[:40]
    if not completed(folder, verify=verify):
        with fetching(folder, shown) as finish:
            if finish is not None:
                archive = folder / ".archive"
                if unknown.exists():
                    os.replace(unknown, archive)
                fetch(address.url, archive, most=shutil.disk_usage(folder).free)
                try:
                    finish(_unpack(archive, folder, shown))
                finally:
                    archive.unlink(missing_ok=True)
    unknown.unlink(missing_ok=True)
    note_latest(base, "", folder.name)
    return folder


def _fetched_digest(address: WebAddress, archive: Path) -> str:
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    fetch(address.url, archive, most=shutil.disk_usage(archive.parent).free)
    return file_digest(archive)


def _unpack(archive: Path, folder: Path, address: str) -> Manifest:
    """Takes the files of an index out of an archive, and nothing else, whatever their folder in it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as held:
                members = {item.filename: item for item in held.infolist() if not item.is_dir()}
                return _take(members, held.open, folder, address)
        with tarfile.open(archive) as held_tar:
            files = {item.name: item for item in held_tar.getmembers() if item.isfile()}
            return _take(files, held_tar.extractfile, folder, address)
    except FreedaError:
        raise
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
    ) as error:
        raise RemoteError(f"the archive at {address} cannot be read: {reason(error)}") from error
    except OSError as error:
        if is_local(error):
            raise local_error(folder, error) from error
        raise RemoteError(f"the archive at {address} cannot be read: {reason(error)}") from error


def _take(
    members: dict[str, Any], opened: Callable[[Any], IO[bytes] | None], folder: Path, address: str
) -> Manifest:
    named = {Path(name).as_posix(): member for name, member in members.items()}
    places = [name for name in named if Path(name).name == MANIFEST]
    if len(places) != 1:
        raise RemoteError(f"the archive at {address} holds {len(places)} indexes; expected one")
    parent = Path(places[0]).parent

    def take(name: str, most: int) -> None:
        member = named.get((parent / name).as_posix())
        file = None if member is None else opened(member)
        if file is None:
            return
        with closing(file), replacing(folder / name) as partial, partial.open("wb") as target:
            while block := file.read(_BLOCK):
                most -= len(block)
                if most < 0:
                    raise RemoteError(f"{name} in the archive at {address} is larger than its manifest says")
                target.write(block)

    take(MANIFEST, _MANIFEST_BYTES)
    manifest = _read(folder, address)
    require_space(folder, manifest, address)
    for name, size in manifest.sizes.items():
        take(name, size)
    return manifest


def _read(folder: Path, address: str) -> Manifest:
    return _parse((folder / MANIFEST).read_bytes(), address)


def _parse(content: bytes, address: str) -> Manifest:
    try:
        return parse_manifest(content, MANIFEST)
    except IndexCorruptError as error:
        told = str(error).partition(";")[0]
        raise RemoteError(f"no index that can be read at {address}: {told}") from error
