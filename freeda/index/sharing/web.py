"""Files of a web server; an interrupted download resumes."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from freeda.errors import FreedaError, RemoteError, UnreachableError, printable, reason
from freeda.files import sync
from freeda.index.sharing.addresses import WebAddress
from freeda.index.sharing.fetched import is_local, local_error

__all__ = ["fetch", "version_of"]

_BLOCK = 2**20
_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4
"""How often a file is asked for again that stops in the middle, each time from where it stopped."""
_NO_HEAD = (403, 405, 501)
"""Answers of servers that give a file, but tell nothing of it."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """An https address leads to https addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise RemoteError(f"{shown(req.full_url)} leads to {shown(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SafeRedirects)


def fetch(url: str, target: Path, *, most: int) -> None:
    """Fetches a file of at most `most` bytes, unless it is there.

    Raises `RemoteError`, `UnreachableError` where the server does not answer, and `OutputError` for a disk
    that is full.
    """
    partial = target.with_name(f".{target.name}.partial")
    for attempt in range(_ATTEMPTS):
        if target.exists():
            return
        try:
            with _told_errors(url, target.parent):
                _continue(url, partial, most)
        except UnreachableError:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(2**attempt / 4)
        else:
            sync(partial)
            os.replace(partial, target)


def version_of(url: str) -> str | None:
    """What tells a file from its other versions: its ETag, else its date and size.

    None where the server tells neither. Raises `RemoteError`, `UnreachableError`.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        with _told_errors(url, Path()), _opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            held = response.headers
    except RemoteError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code in _NO_HEAD:
            return None
        raise
    date, size = held.get("Last-Modified"), held.get("Content-Length")
    return held.get("ETag") or (f"{date} {size}" if date and size else None)


def _continue(url: str, partial: Path, most: int) -> None:
    """Fetches what is missing of a file; raises `ConnectionError` where it ends too early."""
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        response = _opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # all of it is there, or more
            raise
        partial.unlink()
        raise ConnectionError("the server has fewer bytes than were fetched before") from error
    with response:
        if response.status != 206:
            done = 0
        length = response.headers.get("Content-Length")
        whole = done + int(length) if length is not None else None
        with partial.open("r+b" if done else "wb") as file:
            file.seek(done)
            while block := response.read(_BLOCK):
                done += len(block)
                if done > most:
                    raise RemoteError(f"{shown(url)} has more than {most:,} bytes")
                file.write(block)
    if whole is not None and done < whole:
        raise ConnectionError(f"it stopped after {done:,} of {whole:,} bytes")


@contextmanager
def _told_errors(url: str, folder: Path) -> Iterator[None]:
    """The errors of a request as one line."""
    try:
        yield
    except FreedaError:
        raise
    except urllib.error.HTTPError as error:
        kind = UnreachableError if error.code >= 500 else RemoteError
        told = printable(f"{error.code} {error.reason}")
        raise kind(f"{shown(url)} cannot be fetched: the server answers {told}") from error
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and is_local(error):
            raise local_error(folder, error) from error
        inner = getattr(error, "reason", None)
        told = reason(inner if isinstance(inner, BaseException) else error)
        raise UnreachableError(f"{shown(url)} cannot be fetched: {told}") from error


def shown(url: str) -> str:
    """For people: a query may hold a key."""
    return str(WebAddress(url))
