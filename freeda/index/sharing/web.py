"""Files of a web server; what was interrupted goes on where it was."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from freeda.errors import RemoteError, masked, reason
from freeda.files import sync

__all__ = ["fetch", "version_of"]

_BLOCK = 2**20
_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4
"""How often a file is asked for again that stops in the middle, each time from where it stopped."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """An https address leads to https addresses only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise RemoteError(f"{masked(req.full_url)} leads to {masked(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SafeRedirects)


def fetch(url: str, target: Path, *, most: int) -> None:
    """Fetches a file of at most `most` bytes, unless it is there. Raises `RemoteError`."""
    partial = target.with_name(f".{target.name}.partial")
    for attempt in range(_ATTEMPTS):
        if target.exists():
            return
        try:
            _continue(url, partial, most)
        except (urllib.error.HTTPError, RemoteError) as error:
            raise RemoteError(f"{masked(url)} cannot be fetched: {_told(error)}") from error
        except (OSError, HTTPException) as error:
            if attempt + 1 == _ATTEMPTS:
                raise RemoteError(f"{masked(url)} cannot be fetched: {_told(error)}") from error
            time.sleep(2**attempt / 4)
        else:
            sync(partial)
            os.replace(partial, target)


def version_of(url: str) -> str:
    """What tells a file from its other versions: its ETag, else its date and size. Raises `RemoteError`."""
    try:
        with _opener.open(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS) as response:
            held = response.headers
    except (OSError, HTTPException) as error:
        raise RemoteError(f"{masked(url)} cannot be fetched: {_told(error)}") from error
    return held.get("ETag") or f"{held.get('Last-Modified')} {held.get('Content-Length')}"


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
                    raise RemoteError(f"it has more than {most:,} bytes")
                file.write(block)
    if whole is not None and done < whole:
        raise ConnectionError(f"it stopped after {done:,} of {whole:,} bytes")


def _told(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return reason(inner if isinstance(inner, BaseException) else error)
