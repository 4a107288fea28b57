"""Where the page's server listens, and who may ask there. Imports nothing that takes time."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass

from freeda.errors import ConfigError, reason

__all__ = ["Listening", "listen"]


_HTTP = 80
_EVERY = ("", "0.0.0.0", "::")
"""Names of all addresses of this machine."""


@dataclass(frozen=True)
class Listening:
    """A socket that listens.

    url: what to open, with the token where one is required.
    hosts: as browsers on this machine name the server; None where any name is taken.
    token: what every request must carry, made anew; None on addresses that only this machine reaches.
    """

    socket: socket.socket
    url: str
    hosts: frozenset[str] | None
    token: str | None


def listen(host: str, port: int) -> Listening:
    """Listens on an address of this machine; port 0 takes a free one. Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason(error)}; choose another --port"
        ) from error
    number = opened.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    if not _is_loopback(host):
        token = secrets.token_urlsafe(24)
        reached = socket.gethostname() if host in _EVERY else shown
        return Listening(opened, f"http://{reached}:{number}/?token={token}", None, token)
    names = {"127.0.0.1", "localhost", "[::1]", shown}
    hosts = {f"{name}:{number}" for name in names}
    if number == _HTTP:  # browsers leave it out
        hosts |= names
    return Listening(opened, f"http://{shown}:{number}/", frozenset(hosts), None)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
