"""`fetch_index`: the index at an address as a folder of this machine, checked byte by byte."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from freeda.errors import IndexCorruptError, RemoteError
from freeda.index.format import MANIFEST, Manifest, parse_manifest
from freeda.index.sharing.addresses import HubAddress, WebAddress, parse_address
from freeda.index.sharing.fetched import completed, fetching, latest_version, note_latest
from freeda.index.sharing.hub import fetch_file, is_commit, resolve_commit
from freeda.index.sharing.web import fetch, version_of

__all__ = ["fetch_index"]

_MANIFEST_BYTES = 64 * 2**20
_ARCHIVE_BYTES = 2**40
_BLOCK = 2**20


def fetch_index(address: str) -> Path:
    """The folder of the index at an address.

    Only the files of an index are fetched, and only where this version is not here yet; an interrupted fetch
    goes on with the files that are missing. Where the address cannot be reached, what was fetched before is
    taken, with a warning.
    Raises `ConfigError` for what is no address, `RemoteError`.
    """
    parsed = parse_address(address)
    if isinstance(parsed, HubAddress):
        return _from_hub(parsed)
    return _from_archive(parsed) if parsed.is_archive else _from_folder(parsed)


def _from_hub(address: HubAddress) -> Path:
    base = address.folder
    if is_commit(address.revision) and completed(base / address.revision):
        return base / address.revision
    try:
        commit = resolve_commit(address)
    except RemoteError as error:
        return base / latest_version(base, address.revision, str(address), error)
    folder = base / commit
    if not completed(folder):
        with fetching(folder, str(address)) as finish:
            fetch_file(address, commit, MANIFEST, folder)
            manifest = _read(folder, str(address))
            for name in manifest.files:
                fetch_file(address, commit, name, folder)
            finish(manifest)
    note_latest(base, address.revision, commit)
    return folder


def _from_folder(address: WebAddress) -> Path:
    """The manifest tells the version, so it is fetched each time."""
    base = address.folder
    try:
        with TemporaryDirectory(prefix="freeda-") as temporary:
            new = Path(temporary) / MANIFEST
            fetch(address.file(MANIFEST), new, most=_MANIFEST_BYTES)
            content = new.read_bytes()
    except RemoteError as error:
        return base / latest_version(base, "", str(address), error)
    manifest = _parse(content, str(address))
    folder = base / hashlib.sha256(content).hexdigest()[:40]
    if not completed(folder):
        with fetching(folder, str(address)) as finish:
            (folder / MANIFEST).write_bytes(content)
            for name, size in manifest.sizes.items():
                fetch(address.file(name), folder / name, most=size)
            finish(manifest)
    note_latest(base, "", folder.name)
    return folder


def _from_archive(address: WebAddress) -> Path:
    base = address.folder
    try:
        version = version_of(address.url)
    except RemoteError as error:
        return base / latest_version(base, "", str(address), error)
    folder = base / hashlib.sha256(version.encode()).hexdigest()[:40]
    if not completed(folder):
        with fetching(folder, str(address)) as finish:
            archive = folder / ".archive"
            fetch(address.url, archive, most=_ARCHIVE_BYTES)
            try:
                finish(_unpack(archive, folder, address))
            finally:
                archive.unlink(missing_ok=True)
    note_latest(base, "", folder.name)
    return folder


def _unpack(archive: Path, folder: Path, address: WebAddress) -> Manifest:
    """Takes the files of an index out of an archive, and nothing else, whatever their folder in it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as held:
                members = {item.filename: item for item in held.infolist() if not item.is_dir()}
                return _take(members, lambda item: held.open(item), folder, address)
        with tarfile.open(archive) as held_tar:
            files = {item.name: item for item in held_tar.getmembers() if item.isfile()}
            return _take(files, lambda item: held_tar.extractfile(item), folder, address)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise RemoteError(f"the archive at {address} cannot be read: {error}") from error


def _take(
    members: dict[str, Any], opened: Callable[[Any], IO[bytes] | None], folder: Path, address: WebAddress
) -> Manifest:
    named = {Path(name).as_posix(): member for name, member in members.items()}
    places = [name for name in named if Path(name).name == MANIFEST]
    if len(places) != 1:
        raise RemoteError(f"the archive at {address} holds {len(places)} indexes; expected one")
    parent = Path(places[0]).parent

    def take(name: str, most: int) -> None:
        member = named.get((parent / name).as_posix())
        file = None if member is None else opened(member)
        if file is not None:
            with closing(file), (folder / name).open("wb") as target:
                while block := file.read(min(most, _BLOCK)):
                    target.write(block)
                    most -= len(block)

    take(MANIFEST, _MANIFEST_BYTES)
    manifest = _read(folder, str(address))
    for name, size in manifest.sizes.items():
        take(name, size)
    return manifest


def _read(folder: Path, address: str) -> Manifest:
    return _parse((folder / MANIFEST).read_bytes(), address)


def _parse(content: bytes, address: str) -> Manifest:
    try:
        return parse_manifest(content, f"the manifest at {address}")
    except IndexCorruptError as error:
        raise RemoteError(f"no index at {address}: {error}") from error
