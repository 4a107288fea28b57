"""What the page's server answers over real connections, with the toy models."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import freeda
from freeda.index.reader import PrototypeIndex
from freeda.methods import METHODS
from freeda.segmentation.drawing import draw_overlay
from freeda.web.gallery import Gallery
from freeda.web.limits import Limits
from freeda.web.studio import Studio
from tests.freeda.web.asking import CLASSES, SCENE, ask, upload
from tests.freeda.web.conftest import Served

pytestmark = pytest.mark.xdist_group("web")


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


def test_a_background_is_that_of_the_library(client: httpx.Client) -> None:
    told = ask(client, upload(client), background=True).json()
    wanted = freeda.load("toy", device="cpu", background=True).segment(SCENE, "; ".join(CLASSES))
    assert told["segments"] == wanted.segments_info


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"freeda"}))
def test_other_methods_are_those_of_the_library(client: httpx.Client, method: str) -> None:
    told = ask(client, upload(client), method=method, index=None).json()
    wanted = freeda.load(method=method, device="cpu").segment(SCENE, "; ".join(CLASSES))
    labels = np.frombuffer(client.get(f"/api/results/{told['result']}/labels.u16").content, "<u2")
    # Threads of another number may decide a pixel on a border otherwise.
    assert np.mean(labels == wanted.labels.ravel()) > 0.999
    assert [item["label"] for item in told["segments"]] == [item["label"] for item in wanted.segments_info]
    assert not told["explains"]
    refused = client.post("/api/explain", json={"result": told["result"], "x": 1, "y": 1})
    assert refused.status_code == 422
    assert "cannot be explained" in refused.json()["error"]


def test_a_class_that_a_method_cannot_know_is_told(client: httpx.Client) -> None:
    refused = ask(client, upload(client), ["dog", "unicorn"], method="flowseg", index=None)
    assert refused.status_code == 422
    assert "'unicorn'" in refused.json()["error"] and "cat" in refused.json()["error"]


def test_segments_of_a_method_that_tells_things_apart_are_served(client: httpx.Client) -> None:
    told = ask(client, upload(client), method="odise", index=None).json()
    wanted = freeda.load(method="odise", device="cpu").segment(SCENE, "; ".join(CLASSES))
    assert [(item["id"], item["label"], item["score"]) for item in told["panoptic"]] == [
        (item.id, item.name, item.score) for item in wanted.segments
    ]
    content = client.get(f"/api/results/{told['result']}/segments.u16").content
    np.testing.assert_array_equal(np.frombuffer(content, "<u2").reshape(256, 256), wanted.segment_map)


def test_turned_photographs_are_shown_upright(client: httpx.Client) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    shown = client.get(f"/api/images/{upload(client, buffer.getvalue())}").content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown))), np.rot90(pixels, -1))


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
