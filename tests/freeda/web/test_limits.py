"""The page's server under load, and how it starts and ends."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from freeda.toyworld.make_examples import EXAMPLES
from freeda.web.application import create_application
from freeda.web.limits import Limits
from freeda.web.studio import Studio
from tests.freeda.web.asking import ask, upload
from tests.freeda.web.conftest import PATIENCE, Served, ended, started

pytestmark = pytest.mark.xdist_group("web")


def test_a_port_in_use_is_one_line(served: Served, tmp_path: Path) -> None:
    port = served.url.rstrip("/").rpartition(":")[2]
    command = [sys.executable, "-m", "freeda.cli", "serve", "--port", port]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert told.returncode == 1
    assert told.stderr.startswith(f"error: cannot listen on 127.0.0.1, port {port}: ")
    assert told.stderr.endswith("choose another --port\n")


@pytest.fixture
def narrow(index_folder: Path) -> Iterator[tuple[str, Studio]]:
    """A server in this process that lets nobody wait, and keeps one small image."""
    limits = Limits(waiting=0, images_bytes=250_000, results_bytes=1)
    studio = Studio({"tiny": str(index_folder)}, limits, device="cpu")
    server = uvicorn.Server(
        uvicorn.Config(create_application(studio, hosts=None), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", studio
    server.should_exit = True
    thread.join(20)


def test_who_would_have_to_wait_too_long_is_told_to_come_again(
    narrow: tuple[str, Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, studio = narrow
    entered, leave = threading.Event(), threading.Event()
    segment = studio.segment

    def held(*arguments: Any, **options: Any) -> Any:
        entered.set()
        leave.wait(PATIENCE)
        return segment(*arguments, **options)

    monkeypatch.setattr(studio, "segment", held)
    with httpx.Client(base_url=url, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
        image = upload(client)
        first = pool.submit(ask, client, image, ["cat"], index="tiny")
        assert entered.wait(PATIENCE)
        second = ask(client, image, ["dog"], index="tiny")
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        assert "try again in a moment" in second.json()["error"]
        leave.set()
        assert first.result().status_code == 200
        assert ask(client, image, ["dog"], index="tiny").status_code == 200


def test_what_is_kept_is_bounded(narrow: tuple[str, Studio]) -> None:
    url, studio = narrow
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        first = upload(client)
        result = ask(client, first, ["cat", "dog"], index="tiny").json()["result"]
        gone = client.get(f"/api/results/{result}/labels.png")
        assert (gone.status_code, "segment the image again" in gone.json()["error"]) == (404, True)
        second = upload(client, (EXAMPLES / "scene-1.png").read_bytes())
        third = upload(client, (EXAMPLES / "scene-2.png").read_bytes())
        assert client.get(f"/api/images/{first}").status_code == 404
        assert client.get(f"/api/images/{second}").status_code == 200
        assert client.get(f"/api/images/{third}").status_code == 200


def test_an_error_that_nobody_has_foreseen_is_a_sentence(
    narrow: tuple[str, Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, studio = narrow

    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(studio, "picture", broken)
    told = httpx.get(f"{url}/api/images/x", timeout=PATIENCE)
    assert told.status_code == 500
    assert told.headers["content-security-policy"].startswith("default-src 'self';")
    assert told.json() == {"error": "the server failed with ZeroDivisionError; its terminal says where"}


def test_many_at_once_lose_nothing_and_memory_stays(served: Served) -> None:
    """32 requests, 8 at a time, each with an image and classes of its own."""
    rng = np.random.default_rng(0)

    def one(number: int) -> list[dict]:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        with served.client() as client:
            told = ask(client, upload(client, buffer.getvalue()), ["cat", f"dog {number}", "grass"])
        assert told.status_code == 200, told.text
        return told.json()["segments"]

    numbers = rng.permutation(32).tolist()
    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(one, range(1000, 1016)))
        before = served.process.memory_info().rss
        answers = dict(zip(numbers, pool.map(one, numbers), strict=True))
    assert len(warm) == 16 and len(answers) == 32
    assert served.process.memory_info().rss - before < 100 * 2**20
    assert answers[5] == one(5)


def test_ctrl_c_is_the_ordinary_end(tmp_path: Path) -> None:
    process, url = started(home=tmp_path)
    try:
        assert httpx.get(f"{url}api/about", timeout=PATIENCE).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        ended(process)
