"""Addresses of indexes: `hf://USER/NAME`, `hf://USER/NAME@REVISION`, and `https://` folders and archives."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from freeda.errors import ConfigError
from freeda.files import user_folder

__all__ = ["HubAddress", "WebAddress", "is_address", "parse_address"]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EXPECTED = "expected hf://USER/NAME, hf://USER/NAME@REVISION, or https:// and a folder or archive"


@dataclass(frozen=True)
class HubAddress:
    """A data set's repository on the Hugging Face hub. revision: a branch, a tag or a commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where its fetched commits lie."""
        return user_folder() / "fetched" / "hub" / self.repository.replace("/", "--")


@dataclass(frozen=True)
class WebAddress:
    """A folder on a web server that holds an index, or an archive of one."""

    url: str

    def __str__(self) -> str:
        """For people: a query may hold a key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}{'?...' if parts.query else ''}"

    @property
    def is_archive(self) -> bool:
        return urlsplit(self.url).path.lower().endswith(ARCHIVES)

    @property
    def folder(self) -> Path:
        """Where its fetched versions lie."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        host = re.sub(r"[^\w.-]", "-", urlsplit(self.url).hostname or "")
        return user_folder() / "fetched" / "web" / f"{host}-{digest}"

    def file(self, name: str) -> str:
        """The URL of a file in the folder."""
        parts = urlsplit(self.url)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def is_address(name: object) -> bool:
    """Whether a name of an index is an address, and neither a path nor a plain name."""
    return isinstance(name, str) and _SCHEME.match(name) is not None


def parse_address(text: str) -> HubAddress | WebAddress:
    """Raises `ConfigError` for what is no address of an index."""
    if found := _HUB.fullmatch(text):
        return HubAddress(found[1], found[2] or "main")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"'{text}' is no address: {error}; {_EXPECTED}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError("an address with a user name or a password is not read; put the index elsewhere")
    plain = parts.scheme == "http" and host in _LOOPBACK
    if (parts.scheme == "https" or plain) and host:
        return WebAddress(parts._replace(path=quote(parts.path, safe="/%~")).geturl())
    if parts.scheme == "http":
        raise ConfigError(f"'{text}' can be changed on its way; name an https:// address")
    raise ConfigError(f"'{text}' is no address of an index; {_EXPECTED}")
