"""What the page's server refuses, each with a sentence."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from freeda.index.reader import PrototypeIndex
from tests.freeda.web.asking import ask, upload
from tests.freeda.web.conftest import PATIENCE, Served, ended, started

pytestmark = pytest.mark.xdist_group("web")


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


BOX = {"image": "x", "name": "owl", "box": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"name": "owl"}, "`marks` is no list"),
        ([BOX] * 101, "101 marks; the page takes 100 at most, so remove some"),
        (["owl"], "a mark has an `image` and a `name`"),
        ([{**BOX, "name": " "}], "a mark has no name"),
        ([{**BOX, "box": [1, 2, 3]}], "a mark has no shape; expected a `box` of four numbers"),
        ([{**BOX, "box": [1, 2, 3, True]}], "a mark has no shape"),
        ([{**BOX, "box": [1, 2, 3, 1e99]}], "a mark has no shape"),
        ([{**BOX, "box": [1, 2, 3, 10**400]}], "a mark has no shape"),
        ([{"image": "x", "name": "owl"}], "a mark has no shape"),
        ([{"image": "x", "name": "owl", "stroke": [[1, 2]] * 10_001, "width": 3}], "more than 10,000 points"),
        ([{"image": "x", "name": "owl", "stroke": [[1, "2"]], "width": 3}], "a mark has no shape"),
        ([{"image": "x", "name": "owl", "stroke": [[1, 2]], "width": 0}], "a stroke is 0 pixels wide"),
        ([BOX], "the image on which 'owl' is marked is not kept any more; choose it again, or remove"),
    ],
)
def test_bad_marks_are_a_sentence(client: httpx.Client, marks: object, message: str) -> None:
    told = ask(client, upload(client), marks=marks)
    assert told.status_code in (404, 422)
    assert message in told.json()["error"]


def test_marks_of_no_use_are_a_sentence(client: httpx.Client) -> None:
    image = upload(client)
    outside = {**BOX, "image": image, "box": [-9, -9, 5, 5]}
    told = ask(client, image, marks=[outside])
    assert (
        "'owl' in scene.png gives no prototype: mask is empty; mark more of it, or leave it out"
        in told.json()["error"]
    )
    told = ask(client, image, method="diffsegmenter", marks=[{**BOX, "image": image}])
    assert "marks are for methods that retrieve; choose freeda" in told.json()["error"]
    told = client.post("/api/indexes/toy/with", json={"name": "mine", "marks": []})
    assert told.status_code == 422 and "nothing is marked on any image" in told.json()["error"]


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
            told = b""
            with contextlib.suppress(ConnectionError):  # for bytes that the server did not read any more
                while sent < 33 * 2**20:
                    connection.sendall(piece)
                    sent += len(part)
                told = b"".join(iter(lambda: connection.recv(10_000), b""))
        assert told.startswith(b"HTTP/1.1 413 ") or not told
    assert httpx.get(f"{served.url}api/about", timeout=PATIENCE).status_code == 200
    refused = httpx.post(f"{served.url}api/images", content=b"x" * (32 * 2**20 + 1), timeout=PATIENCE)
    assert refused.status_code == 413
    assert "choose a smaller file" in refused.json()["error"]


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
        with httpx.Client(base_url=base, timeout=PATIENCE) as client:
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
        ended(process)


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
