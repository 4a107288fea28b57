"""The page's routes: JSON in, JSON or files out. Every error is a sentence."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

import freeda
from freeda.errors import FreedaError, printable
from freeda.methods import METHODS, takes
from freeda.segmentation.coco import coco_document
from freeda.segmentation.drawing import draw_labels, draw_overlay
from freeda.segmentation.exports import result_summary
from freeda.segmentation.pieces import run_lengths
from freeda.segmentation.result import Segmentation
from freeda.web.asked import bounded, flag, read_body, read_json, text, texts, whole
from freeda.web.examples import example_classes, example_content
from freeda.web.gallery import Gallery
from freeda.web.guard import Guard
from freeda.web.marks import drawn_marks
from freeda.web.studio import ForgottenError, Studio

__all__ = ["create_application"]

_STATIC = Path(__file__).parent / "static"
_PAGE_ROWS = 200
_Given = TypeVar("_Given")
_log = logging.getLogger(__name__)


class BusyError(Exception):
    """More requests wait for the models than may."""


class _Turns:
    """One request at a time has the models, always in the same thread; some wait for their turn."""

    def __init__(self, waiting: int) -> None:
        self._most, self._count = 1 + waiting, 0
        self._turn = asyncio.Lock()
        self._models = ThreadPoolExecutor(1, "models")

    async def run(self, request: Request, work: Callable[[], _Given]) -> _Given:
        """Raises `BusyError` at once where too many wait, `ClientDisconnect` where the client has gone."""
        if self._count >= self._most:
            raise BusyError
        self._count += 1
        try:
            async with self._turn:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return await asyncio.get_running_loop().run_in_executor(self._models, work)
        finally:
            self._count -= 1


class _Api:
    """Answers of the page's server."""

    def __init__(self, studio: Studio) -> None:
        self._studio, self._gallery = studio, Gallery(studio)
        self._turns = _Turns(studio.limits.waiting)

    def routes(self) -> list[Route]:
        return [
            Route("/about", self.about),
            Route("/images", self.add_image, methods=["POST"]),
            Route("/images/{image}", self.image),
            Route("/examples/{name}", self.example),
            Route("/segment", self.segment, methods=["POST"]),
            Route("/results/{result}/{file}", self.result_file),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/indexes/{index}", self.index),
            Route("/indexes/{index}/search", self.search),
            Route("/indexes/{index}/rows/{row}", self.row),
            Route("/indexes/{index}/rows/{row}/picture", self.row_picture),
            Route("/indexes/{index}/without", self.without, methods=["POST"]),
            Route("/indexes/{index}/with", self.with_marks, methods=["POST"]),
        ]

    async def about(self, request: Request) -> Response:
        examples = await run_in_threadpool(example_classes)
        return JSONResponse(
            {
                "version": freeda.__version__,
                "methods": await run_in_threadpool(_methods),  # which imports them
                "indexes": list(self._studio.indexes),
                "examples": [{"name": name, "classes": names} for name, names in examples.items()],
                "limits": asdict(self._studio.limits),
            }
        )

    async def add_image(self, request: Request) -> Response:
        content = await read_body(request, self._studio.limits.upload_bytes)
        name = request.query_params.get("name", "image")[:200]
        picture = await run_in_threadpool(self._studio.add_picture, content, name)
        height, width = picture.pixels.shape[:2]
        return JSONResponse({"image": picture.id, "name": picture.name, "width": width, "height": height})

    async def image(self, request: Request) -> Response:
        """The pixels as they are segmented: upright, without transparency."""
        pixels = self._studio.picture(request.path_params["image"]).pixels
        return Response(await run_in_threadpool(_png, Image.fromarray(pixels)), media_type="image/png")

    async def example(self, request: Request) -> Response:
        content = example_content(request.path_params["name"])
        if content is None:
            raise HTTPException(404, "there is no such example")
        return Response(content, media_type="image/png")

    async def segment(self, request: Request) -> Response:
        asked = await read_json(request)
        work = partial(
            self._studio.segment,
            text(asked, "image"),
            texts(asked, "classes"),
            method=text(asked, "method"),
            index=None if asked.get("index") is None else text(asked, "index"),
            background=flag(asked, "background"),
            marks=drawn_marks(asked.get("marks", []), self._studio.limits.marks),
        )
        started = time.perf_counter()
        result_id, result = await self._turns.run(request, work)
        milliseconds = round(1000 * (time.perf_counter() - started))
        return JSONResponse({**_described(result), "result": result_id, "milliseconds": milliseconds})

    async def result_file(self, request: Request) -> Response:
        result = self._studio.result(request.path_params["result"])
        make = _FILES.get(request.path_params["file"])
        if make is None:
            raise HTTPException(404, f"there is no such file; known are {', '.join(_FILES)}")
        content, media_type = await run_in_threadpool(make, result)
        return Response(content, media_type=media_type)

    async def explain(self, request: Request) -> Response:
        asked = await read_json(request)
        result, x, y = self._studio.result(text(asked, "result")), whole(asked, "x"), whole(asked, "y")
        evidence = await self._turns.run(request, partial(result.explain, x, y))
        region = {"size": list(evidence.region.shape), "counts": run_lengths(evidence.region)}
        return JSONResponse({**evidence.as_dict(), "region": region, "color": list(evidence.color)})

    async def index(self, request: Request) -> Response:
        name = request.path_params["index"]
        return JSONResponse(await run_in_threadpool(self._gallery.summary, name))

    async def search(self, request: Request) -> Response:
        asked, name = request.query_params, request.path_params["index"]
        first, count = (
            bounded(asked.get(key), most, key) for key, most in (("first", 10**6), ("count", _PAGE_ROWS))
        )
        work = partial(self._gallery.search, name, asked.get("q", "")[:500], first, count)
        return JSONResponse(await self._turns.run(request, work))

    async def row(self, request: Request) -> Response:
        path = request.path_params
        row = bounded(path["row"], 10**9, "row")
        return JSONResponse(await run_in_threadpool(self._gallery.row, path["index"], row))

    async def row_picture(self, request: Request) -> Response:
        path = request.path_params
        row = bounded(path["row"], 10**9, "row")
        found = await run_in_threadpool(self._gallery.thumbnail, path["index"], row)
        if found is None:
            raise HTTPException(404, "this prototype has no picture")
        return Response(found[0], media_type=found[1])

    async def without(self, request: Request) -> Response:
        asked = await read_json(request)
        rows = asked.get("rows")
        if not isinstance(rows, list) or not all(type(row) is int for row in rows):
            raise HTTPException(422, "`rows` is no list of whole numbers")
        name = request.path_params["index"]
        work = partial(self._gallery.write_without, name, rows, text(asked, "name"))
        return JSONResponse(await run_in_threadpool(work))

    async def with_marks(self, request: Request) -> Response:
        asked = await read_json(request)
        marks = drawn_marks(asked.get("marks", []), self._studio.limits.marks)
        name, new_name = request.path_params["index"], text(asked, "name")
        prototypes = await self._turns.run(request, partial(self._gallery.marked, name, marks))
        work = partial(self._gallery.write_with, name, prototypes, new_name)
        return JSONResponse(await run_in_threadpool(work))


def create_application(studio: Studio, *, hosts: frozenset[str] | None, token: str | None = None) -> ASGIApp:
    """The page and its server. hosts, token: as `Guard` takes them."""
    api = _Api(studio)
    application = Starlette(
        routes=[
            Mount("/api", routes=api.routes()),
            Mount("/", StaticFiles(directory=_STATIC, html=True)),
        ],
        exception_handlers={
            FreedaError: _told,
            BusyError: _busy,
            HTTPException: _refused,
            ClientDisconnect: _left,
            Exception: _failed,
        },
    )
    return Guard(application, hosts=hosts, token=token)


async def _told(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, ForgottenError) else 422)


async def _busy(request: Request, error: Exception) -> Response:
    why = "too many requests are waiting; try again in a moment"
    return JSONResponse({"error": why}, 429, {"Retry-After": "1"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _failed(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, printable(request.url.path), exc_info=error)
    why = f"the server failed with {type(error).__name__}; its terminal says where"
    return JSONResponse({"error": why}, 500)


def _methods() -> list[dict[str, Any]]:
    return [{"name": name, "retrieves": takes(name, "index")} for name in METHODS]


def _described(result: Segmentation) -> dict[str, Any]:
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in result.colors.tolist()]
    return {
        **result_summary(result),
        "classes": [
            {"name": name, "color": color} for name, color in zip(result.classes, colors, strict=True)
        ],
        "explains": result.explainer is not None,
    }


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


_Make = Callable[[Segmentation], tuple[bytes, str]]
_FILES: dict[str, _Make] = {
    "labels.u16": lambda result: (result.labels.astype("<u2").tobytes(), "application/octet-stream"),
    "segments.u16": lambda result: (result.segment_map.astype("<u2").tobytes(), "application/octet-stream"),
    "labels.png": lambda result: (_png(draw_labels(result)), "image/png"),
    "overlay.png": lambda result: (_png(draw_overlay(result)), "image/png"),
    "result.json": lambda result: (_encoded(result_summary(result)), "application/json"),
    "coco.json": lambda result: (
        _encoded(coco_document(result, result.file_name or "image", instances=True)),
        "application/json",
    ),
}
"""What a result can be fetched as. labels.u16, segments.u16: (H, W) unsigned 16-bit little-endian numbers of
classes, and of segments.
"""
