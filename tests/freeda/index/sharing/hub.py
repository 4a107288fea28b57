"""A stand-in for the Hugging Face hub and for a web server, on the loopback.

It speaks the protocol of huggingface_hub's client as far as data sets go: create, branch, preupload, LFS
batch and upload, commit as NDJSON, revision, resolve with ETag and ranges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

_BLOCK = 1024
TOKEN = "hf_standin"


@dataclass
class Repository:
    """branches: commits by branch. commits: files by commit."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, changed: dict[str, bytes]) -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        files = {**before, **changed}
        sha = hashlib.sha1(json.dumps([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


class Hub:
    """The server's state, and what a test changes of it.

    repositories: by USER/NAME. web: files by path.
    asked: method, path and range of every request.
    cuts: by file name, bytes after which its connection breaks, once each.
    slow: seconds between two blocks of 1024 bytes.
    refuses: by method and path, what is answered in place of the file.
    silent: whether files are given without a date, a size or an ETag.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.web: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.cuts: dict[str, list[int]] = {}
        self.slow = 0.0
        self.refuses: dict[str, Response] = {}
        self.silent = False
        self.url = ""
        self._objects: dict[str, bytes] = {}

    def fetched(self) -> list[str]:
        """The names of files that were fetched, in order."""
        return [
            path.rsplit("/", 1)[1]
            for method, path, _ in self.asked
            if method == "GET" and "/api/" not in path
        ]

    def application(self) -> Starlette:
        data = "/api/datasets/{user}/{name}"
        return Starlette(
            routes=[
                Route("/api/repos/create", self._create, methods=["POST"]),
                Route("/api/validate-yaml", self._validate, methods=["POST"]),
                Route(f"{data}/branch/{{branch}}", self._branch, methods=["POST"]),
                Route(f"{data}/preupload/{{revision}}", self._preupload, methods=["POST"]),
                Route(f"{data}/commit/{{revision}}", self._commit, methods=["POST"]),
                Route(data, self._revision),
                Route(f"{data}/revision/{{revision:path}}", self._revision),
                Route(f"{data}/paths-info/{{revision}}", self._sizes, methods=["POST"]),
                Route("/datasets/{user}/{name}.git/info/lfs/objects/batch", self._batch, methods=["POST"]),
                Route("/lfs/{oid}", self._store, methods=["PUT"]),
                Route("/datasets/{user}/{name}/resolve/{revision}/{path:path}", self._resolve),
                Route("/web/{path:path}", self._web),
                Route(
                    "/leads/{path:path}",
                    lambda request: RedirectResponse(f"/web/{request.path_params['path']}"),
                ),
            ]
        )

    def _note(self, request: Request) -> None:
        self.asked.append((request.method, request.url.path, request.headers.get("range", "")))

    def _repository(self, request: Request) -> Repository | None:
        self._note(request)
        found = self.repositories.get("{user}/{name}".format(**request.path_params))
        hidden = found is not None and found.private and not self._allowed(request)
        return None if hidden else found

    def _allowed(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"

    async def _create(self, request: Request) -> Response:
        self._note(request)
        if not self._allowed(request):
            return JSONResponse({"error": "Invalid username or password."}, 401)
        wanted = await request.json()
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repositories:
            return JSONResponse({**answer, "error": "You already created this dataset repo"}, 409)
        self.repositories[name] = Repository(
            "private" in (wanted.get("visibility"), wanted.get("private") and "private")
        )
        self.repositories[name].commit("main", {".gitattributes": b""})
        return JSONResponse(answer)

    async def _validate(self, request: Request) -> Response:
        assert (await request.json())["content"].startswith("---\n")
        return JSONResponse({"errors": [], "warnings": []})

    async def _branch(self, request: Request) -> Response:
        found = self._repository(request)
        assert found is not None and self._allowed(request)
        found.branches.setdefault(request.path_params["branch"], found.branches["main"])
        return JSONResponse({})

    async def _preupload(self, request: Request) -> Response:
        found = self._repository(request)
        assert found is not None
        files = [
            {
                "path": item["path"],
                "uploadMode": "regular" if item["path"].endswith((".md", ".json")) else "lfs",
                "shouldIgnore": False,
            }
            for item in (await request.json())["files"]
        ]
        return JSONResponse({"files": files})

    async def _batch(self, request: Request) -> Response:
        self._note(request)
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
            for item in (await request.json())["objects"]
        ]
        return JSONResponse(
            {"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json"
        )

    async def _store(self, request: Request) -> Response:
        content = await request.body()
        assert hashlib.sha256(content).hexdigest() == request.path_params["oid"]
        self._objects[request.path_params["oid"]] = content
        return Response()

    async def _commit(self, request: Request) -> Response:
        found = self._repository(request)
        assert found is not None and self._allowed(request)
        changed = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changed[value["path"]] = self._objects[value["oid"]]
        sha = found.commit(request.path_params["revision"], changed)
        name = "{user}/{name}".format(**request.path_params)
        url = f"{self.url}/datasets/{name}/commit/{sha}"
        return JSONResponse({"commitUrl": url, "commitOid": sha, "success": True})

    async def _revision(self, request: Request) -> Response:
        found = self._repository(request)
        if found is None:
            return _missing("RepoNotFound")
        held = found.files(request.path_params.get("revision", "main"))
        if held is None:
            return _missing("RevisionNotFound")
        siblings = [{"rfilename": name} for name in held[1]]
        name = "{user}/{name}".format(**request.path_params)
        return JSONResponse({"id": name, "sha": held[0], "private": found.private, "siblings": siblings})

    async def _sizes(self, request: Request) -> Response:
        found = self._repository(request)
        held = found and found.files(request.path_params["revision"])
        if held is None:
            return _missing("RepoNotFound" if found is None else "RevisionNotFound")
        wanted = parse_qs((await request.body()).decode())["paths"]
        known = [name for name in wanted if name in held[1]]
        return JSONResponse(
            [{"type": "file", "path": name, "size": len(held[1][name]), "oid": "0"} for name in known]
        )

    async def _resolve(self, request: Request) -> Response:
        found = self._repository(request)
        if found is None:
            return _missing("RepoNotFound")
        held = found.files(request.path_params["revision"])
        if held is None:
            return _missing("RevisionNotFound")
        if request.path_params["path"] not in held[1]:
            return _missing("EntryNotFound", {"X-Repo-Commit": held[0]})
        return self._file(request, held[1][request.path_params["path"]], {"X-Repo-Commit": held[0]})

    async def _web(self, request: Request) -> Response:
        self._note(request)
        path = request.path_params["path"]
        if refused := self.refuses.get(f"{request.method} {path}"):
            return refused
        return self._file(request, self.web[path], {}) if path in self.web else Response(status_code=404)

    def _file(self, request: Request, content: bytes, headers: dict[str, str]) -> Response:
        headers = {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start >= len(content) > 0:
            return Response(status_code=416)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status, sent = (206 if start else 200), content[start:]
        headers["Content-Length"] = str(len(sent))
        if self.silent:
            headers = {}
        if request.method == "HEAD":
            return Response(status_code=200, headers=headers)
        cuts = self.cuts.get(request.url.path.rsplit("/", 1)[1], [])
        return StreamingResponse(self._sent(sent, cuts.pop(0) if cuts else None), status, headers)

    async def _sent(self, content: bytes, cut: int | None) -> AsyncIterator[bytes]:
        import asyncio

        for start in range(0, len(content), _BLOCK):
            if cut is not None and start >= cut:
                raise ConnectionError("cut")
            yield content[start : start + _BLOCK]
            if self.slow:
                await asyncio.sleep(self.slow)


def _missing(code: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": code}, 404, {"X-Error-Code": code, **(headers or {})})


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at `hub.url`; no longer once the block ends."""
    config = uvicorn.Config(hub.application(), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port: Any = server.servers[0].sockets[0].getsockname()[1]
    hub.url = f"http://127.0.0.1:{port}"
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()
