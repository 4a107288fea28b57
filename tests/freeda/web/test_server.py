"""The page's server over real connections, with the toy models."""

from __future__ import annotations

import contextlib
import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from pycocotools import mask as coco_mask

import freeda
from freeda.index.reader import PrototypeIndex
from freeda.segmentation.drawing import draw_overlay
from freeda.toyworld.make_examples import EXAMPLES
from freeda.web.application import create_application
from freeda.web.gallery import Gallery
from freeda.web.limits import Limits
from freeda.web.studio import Studio
from tests.freeda.web.conftest import Served, started

pytestmark = pytest.mark.xdist_group("web")

SCENE = EXAMPLES / "scene-4.png"
CLASSES = ["dog, puppy", "lamp", "gravel", "sky"]


def upload(client: httpx.Client, content: bytes = SCENE.read_bytes(), name: str = "scene.png") -> str:
    told = client.post("/api/images", params={"name": name}, content=content)
    assert told.status_code == 200, told.text
    return told.json()["image"]


def ask(client: httpx.Client, image: str, classes: list[str] = CLASSES, **changes: Any) -> httpx.Response:
    asked = {"image": image, "classes": classes, "method": "freeda", "index": "toy", "background": False}
    return client.post("/api/segment", json={**asked, **changes})


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def expected() -> freeda.Segmentation:
    return freeda.load("toy", device="cpu").segment(SCENE, "; ".join(CLASSES))


def test_a_result_is_that_of_the_library(client: httpx.Client, expected: freeda.Segmentation) -> None:
    told = ask(client, upload(client)).json()
    files = f"/api/results/{told['result']}"
    labels = np.frombuffer(client.get(f"{files}/labels.u16").content, "<u2").reshape(expected.labels.shape)
    np.testing.assert_array_equal(labels, expected.labels)
    assert [item["name"] for item in told["classes"]] == ["dog", "lamp", "gravel", "sky"]
    assert [item["color"] for item in told["classes"]] == [
        "#" + bytes(color).hex() for color in expected.colors.tolist()
    ]
    assert [(item["label"], item["share"]) for item in told["segments"]] == [
        (item["label"], item["share"]) for item in expected.segments_info
    ]
    picture = np.asarray(Image.open(io.BytesIO(client.get(f"{files}/overlay.png").content)))
    np.testing.assert_array_equal(picture, np.asarray(draw_overlay(expected)))
    drawn = np.asarray(Image.open(io.BytesIO(client.get(f"{files}/labels.png").content)))
    np.testing.assert_array_equal(drawn, expected.labels)
    coco = client.get(f"{files}/coco.json").json()
    height, width = expected.labels.shape
    total = np.zeros((height, width), int)
    for item in coco["annotations"]:
        runs = coco_mask.frPyObjects(item["segmentation"], height, width)
        total += coco_mask.decode(runs) * item["category_id"]
    np.testing.assert_array_equal(total - 1, expected.labels)


def test_a_pixel_is_explained_as_by_the_library(client: httpx.Client, expected: freeda.Segmentation) -> None:
    result = ask(client, upload(client)).json()["result"]
    told = client.post("/api/explain", json={"result": result, "x": 64, "y": 70}).json()
    evidence = expected.explain(64, 70)
    assert told["candidates"] == evidence.as_dict()["candidates"]
    assert told["prototypes"] == evidence.as_dict()["prototypes"]
    runs = told["region"]["counts"]
    region = np.repeat(np.arange(len(runs)) % 2, runs).reshape(told["region"]["size"])
    np.testing.assert_array_equal(region == 1, evidence.region)
    row = told["prototypes"][0]["row"]
    picture = client.get(f"/api/indexes/toy/rows/{row}/picture")
    assert picture.headers["content-type"] == "image/webp"
    assert picture.content == evidence.votes[0].thumbnail


def test_background_and_other_methods_are_those_of_the_library(client: httpx.Client) -> None:
    image = upload(client)
    told = ask(client, image, background=True).json()
    wanted = freeda.load("toy", device="cpu", background=True).segment(SCENE, "; ".join(CLASSES))
    assert told["segments"] == wanted.segments_info
    other = ask(client, image, method="diffsegmenter", index=None).json()
    wanted = freeda.load(method="diffsegmenter", device="cpu").segment(SCENE, "; ".join(CLASSES))
    assert [item["label"] for item in other["segments"]] == [item["label"] for item in wanted.segments_info]
    assert not other["explains"]
    refused = client.post("/api/explain", json={"result": other["result"], "x": 1, "y": 1})
    assert refused.status_code == 422
    assert "cannot be explained" in refused.json()["error"]


def test_turned_photographs_are_shown_upright(client: httpx.Client) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    shown = client.get(f"/api/images/{upload(client, buffer.getvalue())}").content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown))), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "no class names given"),
        ([" ", ";"], "no class names given"),
        (["cat", "CAT"], "is given twice"),
        ([f"class {number}" for number in range(501)], "501 classes; the page takes 500 at most"),
    ],
)
def test_bad_classes_are_a_sentence(client: httpx.Client, classes: list[str], message: str) -> None:
    told = ask(client, upload(client), classes)
    assert told.status_code == 422
    assert message in told.json()["error"]


def test_class_names_are_never_files(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("password\n")
    told = ask(client, upload(client), [str(tmp_path / "secret.txt")]).json()
    assert [item["name"] for item in told["classes"]] == [str(tmp_path / "secret.txt")]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/segment", {"image": "x"}, 422, "`classes` is no list of texts"),
        (
            "/api/segment",
            {"image": "x", "classes": ["cat"], "method": "freeda", "background": "yes"},
            422,
            "`background` is neither true nor false",
        ),
        ("/api/segment", {"image": "gone", "classes": ["cat"], "method": "freeda"}, 404, "choose it again"),
        ("/api/explain", {"result": "gone", "x": 1, "y": 1}, 404, "segment the image again"),
        ("/api/segment", {"image": "x", "classes": ["cat"], "method": "freeda", "index": []}, 422, "`index`"),
        ("/api/indexes/toy/without", {"rows": ["1"], "name": "x"}, 422, "`rows` is no list"),
        ("/api/indexes/toy/without", {"rows": [], "name": "x"}, 422, "mark those to leave out"),
        ("/api/indexes/toy/without", {"rows": [1], "name": "../x"}, 422, "name the new index with letters"),
        ("/api/indexes/toy/without", {"rows": [1], "name": "toy"}, 422, "there is an index 'toy' already"),
        ("/api/indexes/toy/without", {"rows": [10**9], "name": "x"}, 422, "has no row 1000000000"),
        ("/api/indexes/etc/without", {"rows": [1], "name": "x"}, 422, "unknown index 'etc'"),
    ],
)
def test_bad_requests_are_a_sentence(
    client: httpx.Client, path: str, body: dict, status: int, message: str
) -> None:
    told = client.post(path, json=body)
    assert (told.status_code, message in told.json()["error"]) == (status, True), told.text


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/indexes/..%2F..%2Fetc", 404, ""),
        ("/api/indexes/nowhere", 422, "unknown index 'nowhere'"),
        ("/api/indexes/toy/rows/99999", 422, "the index has no row 99999"),
        (f"/api/indexes/toy/rows/{'9' * 5000}", 422, "`row` is no whole number"),
        (f"/api/indexes/toy/search?q=cat&count=10&first={'9' * 5000}", 422, "`first` is no whole number"),
        ("/api/indexes/toy/search?q=&first=0&count=10", 422, "type a noun or a sentence"),
        ("/api/indexes/toy/search?q=cat&first=-1&count=10", 422, "`first` is no whole number"),
        ("/api/indexes/toy/search?q=cat&first=0&count=1e9", 422, "`count` is no whole number"),
        ("/api/examples/..%2Fclasses.txt", 404, ""),
        ("/api/examples/nothing.png", 404, "there is no such example"),
        ("/api/nothing", 404, "Not Found"),
        ("/../pyproject.toml", 404, ""),
        ("/api/segment", 405, "Method Not Allowed"),
    ],
)
def test_what_is_not_there_is_a_sentence(client: httpx.Client, path: str, status: int, message: str) -> None:
    told = client.get(path)
    assert told.status_code == status
    assert message in told.json()["error"]


def test_uploads_that_are_no_images_or_too_large_are_refused(client: httpx.Client) -> None:
    told = client.post("/api/images", params={"name": "<b>.png"}, content=b"no image")
    assert told.status_code == 422
    assert told.json()["error"].startswith("'<b>.png' is no readable image: expected JPEG, PNG")
    large = io.BytesIO()
    Image.new("1", (5000, 4000)).save(large, "PNG")
    told = client.post("/api/images", content=large.getvalue())
    assert told.status_code == 422
    assert "5000 x 4000 pixels, more than 16,000,000" in told.json()["error"]


def test_a_body_longer_than_is_taken_is_told_whatever_its_length_says(served: Served) -> None:
    host, _, port = served.url.removeprefix("http://").rstrip("/").partition(":")
    for length in ("Content-Length: 99999999999", "Transfer-Encoding: chunked"):
        with socket.create_connection((host, int(port)), 60) as connection:
            head = f"POST /api/images HTTP/1.1\r\nHost: {host}:{port}\r\n{length}\r\n\r\n"
            connection.sendall(head.encode())
            part, sent = b"x" * 2**20, 0
            piece = b"100000\r\n" + part + b"\r\n" if "chunked" in length else part
            while sent < 33 * 2**20:
                connection.sendall(piece)
                sent += len(part)
            told = b""
            with contextlib.suppress(ConnectionResetError):  # for bytes that the server did not read any more
                told = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert told.startswith(b"HTTP/1.1 413 ") or not told
    assert httpx.get(f"{served.url}api/about").status_code == 200
    refused = httpx.post(f"{served.url}api/images", content=b"x" * (32 * 2**20 + 1), timeout=60)
    assert refused.status_code == 413
    assert "choose a smaller file" in refused.json()["error"]


def test_an_index_can_be_looked_into(client: httpx.Client) -> None:
    index = PrototypeIndex.open("toy")
    summary = client.get("/api/indexes/toy").json()
    counts = index.noun_counts()
    assert summary["prototypes"] == len(index)
    assert {item["noun"]: item["count"] for item in summary["frequent"]}.items() <= counts.items()
    found = client.get("/api/indexes/toy/search", params={"q": " Cat ", "first": 3, "count": 4}).json()
    rows = [row for row, noun in enumerate(index.column("noun")) if noun == "cat"]
    assert (found["by"], found["total"]) == ("noun", counts["cat"])
    assert [item["row"] for item in found["rows"]] == rows[3:7]
    near = client.get(
        "/api/indexes/toy/search", params={"q": "a fluffy kitty", "first": 0, "count": 5}
    ).json()
    assert near["by"] == "text"
    scores = [item["similarity"] for item in near["rows"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)


def test_neighbors_are_the_nearest_by_looks(client: httpx.Client) -> None:
    index = PrototypeIndex.open("toy")
    vectors = index.vectors(range(len(index)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    told = client.get("/api/indexes/toy/rows/7").json()
    found = [item["row"] for item in told["neighbors"]]
    expected = np.argsort(-(vectors @ vectors[7]), kind="stable")
    assert 7 not in found
    assert len(set(found) & set(expected[1:13].tolist())) >= 11  # half precision may swap the last


def test_an_index_without_marked_prototypes_is_written_and_used(client: httpx.Client, served: Served) -> None:
    made = client.post("/api/indexes/toy/without", json={"rows": [2, 5], "name": "better"}).json()
    written = PrototypeIndex.open(served.home / "indexes" / "better", verify=True)
    index = PrototypeIndex.open("toy")
    assert made["prototypes"] == len(written) == len(index) - 2
    kept = [row for row in range(len(index)) if row not in (2, 5)]
    assert written.ids(range(len(written))) == index.ids(kept)
    assert "better" in client.get("/api/about").json()["indexes"]
    told = ask(client, upload(client), index="better")
    assert told.status_code == 200


def test_other_sites_and_other_names_are_refused(client: httpx.Client, served: Served) -> None:
    image = upload(client)
    body = {"image": image, "classes": ["cat"], "method": "freeda", "index": "toy"}
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        told = client.post("/api/segment", json=body, headers=headers)
        assert (told.status_code, told.json()["error"]) == (403, "requests of other sites are not answered")
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        told = client.get("/api/indexes/toy/search?q=cat&first=0&count=1", headers=headers)
        assert told.status_code == 403
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page
    told = client.get("/api/about", headers={"Host": "evil.example"})
    assert told.status_code == 403
    cure = f"use {served.url}"
    assert told.json()["error"] == f"this server does not answer to the name 'evil.example'; {cure}"
    plain = client.post("/api/segment", content=b"{}", headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    own = {"Origin": served.url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/segment", json=body, headers=own).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(client: httpx.Client) -> None:
    for path in ("/", "/app.js", "/api/about", "/api/nothing", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_other_addresses_need_the_token(tmp_path: Path) -> None:
    process, url = started("--host", "0.0.0.0", home=tmp_path)
    try:
        base, _, token = url.partition("?token=")
        assert urlsplit(base).hostname == socket.gethostname().lower()
        base = f"http://127.0.0.1:{urlsplit(base).port}"
        assert len(token) > 20
        with httpx.Client(base_url=base) as client:
            for path in ("/", "/api/about", "/?token=wrong"):
                assert client.get(path).status_code == 401
            assert client.get("/api/about", headers={"Authorization": f"Bearer {token}"}).status_code == 200
            entered = client.get(f"/?token={token}")
            assert entered.status_code == 303
            cookie, *rules = entered.headers["set-cookie"].split("; ")
            assert {"HttpOnly", "SameSite=lax"} <= set(rules)
            client.cookies.clear()
            for others in ("", "a/b=1; ", 'j={"a": 1}; ', "flag; "):  # of other servers on this machine
                told = client.get("/api/about", headers={"Cookie": f"{others}{cookie}"})
                assert told.status_code == 200, others
    finally:
        process.terminate()
        process.wait(20)


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
        leave.wait(30)
        return segment(*arguments, **options)

    monkeypatch.setattr(studio, "segment", held)
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        image = upload(client)
        first = pool.submit(ask, client, image, ["cat"], index="tiny")
        assert entered.wait(30)
        second = ask(client, image, ["dog"], index="tiny")
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        assert "try again in a moment" in second.json()["error"]
        leave.set()
        assert first.result().status_code == 200
        assert ask(client, image, ["dog"], index="tiny").status_code == 200


def test_what_is_kept_is_bounded(narrow: tuple[str, Studio]) -> None:
    url, studio = narrow
    with httpx.Client(base_url=url, timeout=60) as client:
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
    told = httpx.get(f"{url}/api/images/x")
    assert told.status_code == 500
    assert told.headers["content-security-policy"].startswith("default-src 'self';")
    assert told.json() == {"error": "the server failed with ZeroDivisionError; its terminal says where"}


def test_many_at_once_lose_nothing_and_memory_stays(served: Served) -> None:
    """64 requests, 8 at a time, each with an image and classes of its own."""
    rng = np.random.default_rng(0)

    def one(number: int) -> list[dict]:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        with served.client() as client:
            told = ask(client, upload(client, buffer.getvalue()), ["cat", f"dog {number}", "grass"])
        assert told.status_code == 200, told.text
        return told.json()["segments"]

    numbers = rng.permutation(64).tolist()
    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(one, range(1000, 1016)))
        before = served.process.memory_info().rss
        answers = dict(zip(numbers, pool.map(one, numbers), strict=True))
    assert len(warm) == 16 and len(answers) == 64
    assert served.process.memory_info().rss - before < 200 * 2**20
    assert answers[5] == one(5)


def test_ctrl_c_is_the_ordinary_end(tmp_path: Path) -> None:
    process, url = started(home=tmp_path)
    while httpx.get(f"{url}api/about").status_code != 200:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "nonsense"], "unknown preset 'nonsense'"),
        (["--device", "gpu7"], "unknown device 'gpu7'"),
        (["--index", "nowhere"], "no index 'nowhere'"),
        (["--index", "toy", "--index", "{toy}"], "two indexes are named 'toy'"),
    ],
)
def test_what_cannot_work_is_told_before_an_address_is(options: list[str], message: str) -> None:
    toy = str(PrototypeIndex.open("toy").folder)
    command = [sys.executable, "-m", "freeda.cli", "serve", "--port", "0", *options]
    told = subprocess.run(
        [part.replace("{toy}", toy) for part in command], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 1
    assert told.stderr.startswith(f"error: {message}")
    assert told.stdout == ""


def test_an_index_may_not_take_the_name_of_another_that_is_served(
    index_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREEDA_HOME", str(tmp_path))
    studio = Studio({"animals": str(index_folder)}, Limits(), device="cpu")
    with pytest.raises(freeda.FreedaError, match="there is an index 'animals' already"):
        Gallery(studio).write_without("animals", [0], "animals")
    everything = list(range(len(PrototypeIndex.open(index_folder))))
    with pytest.raises(freeda.FreedaError, match="all prototypes are marked; leave some"):
        Gallery(studio).write_without("animals", everything, "rest")
    assert not (tmp_path / "indexes").exists()
