"""Who may ask, and what a browser may do with the answers. Wraps the whole application."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests of other sites, and those without the token where one is required.

    hosts: as browsers on this machine name the server; None takes any, for a server with a token. A page of
        another site that resolves its own name to this machine would name another one (DNS rebinding).
    token: what every request must carry, as the cookie that `/?token=...` sets or as a bearer token; None for
        a server that only this machine reaches.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(scope) or self._app
        await answer(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> ASGIApp | None:
        """What is answered in place of the application; None where the request may pass."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and host not in self._hosts:
            known = next(name for name in sorted(self._hosts) if name.startswith("127."))
            return _refusal(403, f"this server does not answer to the name '{host}'; use http://{known}/")
        if scope["path"].startswith("/api") and _is_cross_site(headers, host):
            return _refusal(403, "requests of other sites are not answered")
        if self._token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._is_token(given):
            entry = RedirectResponse("/", 303)
            # Lax, for the first request may follow a link in a message; requests of other sites are refused.
            entry.set_cookie(_cookie(scope), self._token, httponly=True, samesite="lax")
            return entry
        if self._is_token(_carried(headers, _cookie(scope))):
            return None
        return _refusal(401, "this page needs its token; open the address that `freeda serve` printed")

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())


def _is_cross_site(headers: Headers, host: str) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    other = origin is not None and origin.partition("://")[2] != host
    return other or site not in ("same-origin", "none")


def _cookie(scope: Scope) -> str:
    """Cookies are shared by all servers of a machine, so that each needs a name of its own."""
    return f"freeda_token_{(scope.get('server') or ('', 0))[1]}"


def _carried(headers: Headers, cookie: str) -> str:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return bearer
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")


def _refusal(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why}, status)
