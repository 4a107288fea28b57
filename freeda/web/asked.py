"""What a request asks for, checked: every refusal is a sentence."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

__all__ = ["bounded", "flag", "read_body", "read_json", "text", "texts", "whole"]

_JSON_BYTES = 2**20


async def read_body(request: Request, most: int) -> bytes:
    """Reads no more than is allowed, whatever the request says of its length."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            why = f"more than the {most:,} bytes that are taken; choose a smaller file"
            raise HTTPException(413, why, {"Connection": "close"})  # the rest is not read
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "expected application/json")
    try:
        content = json.loads(await read_body(request, _JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the request is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise HTTPException(422, "the request is no JSON object")
    return content


def text(asked: dict[str, Any], key: str) -> str:
    if not isinstance(asked.get(key), str):
        raise HTTPException(422, f"`{key}` is missing, or no text")
    return str(asked[key])


def texts(asked: dict[str, Any], key: str) -> list[str]:
    values = asked.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise HTTPException(422, f"`{key}` is no list of texts")
    return values


def flag(asked: dict[str, Any], key: str) -> bool:
    """False where it is left out."""
    if not isinstance(asked.get(key, False), bool):
        raise HTTPException(422, f"`{key}` is neither true nor false")
    return bool(asked.get(key, False))


def whole(asked: dict[str, Any], key: str) -> int:
    if type(asked.get(key)) is not int:
        raise HTTPException(422, f"`{key}` is no whole number")
    return int(asked[key])


def bounded(given: str | None, most: int, key: str) -> int:
    if given is None or not re.fullmatch("[0-9]{1,9}", given) or int(given) > most:
        raise HTTPException(422, f"`{key}` is no whole number from 0 to {most:,}")
    return int(given)
