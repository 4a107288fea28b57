from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from freeda.cli import main
from freeda.segmentation.coco import coco_document, coco_panoptic
from freeda.segmentation.pieces import run_lengths
from freeda.segmentation.result import Segmentation
from freeda.toyworld.make_examples import EXAMPLES


def read_back(document: dict, folder: Path) -> COCO:
    path = folder / "coco.json"
    path.write_text(json.dumps(document))
    return COCO(str(path))


@pytest.mark.parametrize("instances", [False, True])
def test_pycocotools_reads_every_mask_back(patchwork: Segmentation, tmp_path: Path, instances: bool) -> None:
    coco = read_back(coco_document(patchwork, "a.png", instances=instances), tmp_path)
    assert [item["name"] for item in coco.loadCats(coco.getCatIds())] == list(patchwork.classes)
    assert coco.imgs[1] == {"id": 1, "file_name": "a.png", "height": 30, "width": 36}
    for number in range(4):
        found = coco.loadAnns(coco.getAnnIds(catIds=[number + 1]))
        masks = [coco.annToMask(item).astype(bool) for item in found]
        expected = patchwork.labels == number
        np.testing.assert_array_equal(sum(masks, np.zeros_like(expected, int)), expected)
        pieces = ndimage.label(expected, np.ones((3, 3)))[1]
        assert len(masks) == (pieces if instances else min(pieces, 1))
        for item, mask in zip(found, masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert item["area"] == mask.sum()
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert item["bbox"] == box
            assert item["score"] == pytest.approx(patchwork.scores[mask].mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [([[1]], [0, 1]), ([[0]], [1]), ([[0, 1], [1, 0]], [1, 2, 1]), ([[1, 1], [0, 1]], [0, 2, 1, 1])],
)
def test_runs_alternate_beginning_with_false(mask: list, expected: list[int]) -> None:
    assert run_lengths(np.array(mask, bool)) == expected


def test_the_command_writes_what_pycocotools_reads(tmp_path: Path) -> None:
    command = ["segment", str(EXAMPLES / "scene-1.png"), "--classes", "cat; grass; sand", "--format"]
    done = CliRunner().invoke(main, [*command, "coco,labels", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    coco = COCO(str(tmp_path / "scene-1.coco.json"))
    labels = np.asarray(Image.open(tmp_path / "scene-1.labels.png"))
    for item in coco.loadAnns(coco.getAnnIds()):
        np.testing.assert_array_equal(coco.annToMask(item) == 1, labels == item["category_id"] - 1)
    assert coco.imgs[1]["file_name"] == "scene-1.png"


@pytest.mark.parametrize("instances", [False, True])
def test_a_panoptic_map_holds_every_segment(patchwork: Segmentation, instances: bool) -> None:
    colored, document = coco_panoptic(patchwork, "a.png", "a.panoptic.png", instances=instances)
    ids = colored.astype(int) @ [1, 256, 256**2]
    (annotation,) = document["annotations"]
    assert (annotation["file_name"], annotation["image_id"]) == (
        "a.panoptic.png",
        document["images"][0]["id"],
    )
    named = {item["id"]: item["name"] for item in document["categories"]}
    assert {item["isthing"] for item in document["categories"]} == {int(instances)}
    found = np.full(ids.shape, 255)
    for item in annotation["segments_info"]:
        mask = ids == item["id"]
        rows, columns = np.nonzero(mask)
        assert item["area"] == mask.sum()
        assert item["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        found[mask] = patchwork.classes.index(named[item["category_id"]])
        pieces = ndimage.label(mask, np.ones((3, 3)))[1]
        assert pieces == 1 or not instances
    np.testing.assert_array_equal(found, patchwork.labels)
    assert set(np.unique(ids)) == {0, *(item["id"] for item in annotation["segments_info"])}


def test_more_segments_than_a_byte_counts_keep_their_ids() -> None:
    labels = np.full((40, 40), 255)
    labels[::2, ::2] = 0
    scores = np.ones(labels.shape, np.float32)
    result = Segmentation(np.zeros((40, 40, 3), np.uint8), labels.astype(np.int32), scores, ("dot",))
    colored, document = coco_panoptic(result, "a.png", "b.png", instances=True)
    ids = colored.astype(int) @ [1, 256, 256**2]
    assert len(np.unique(ids)) - 1 == len(document["annotations"][0]["segments_info"]) == 400


def test_the_command_writes_panoptic_files(tmp_path: Path) -> None:
    command = ["segment", str(EXAMPLES / "scene-1.png"), "--classes", "cat; grass; sand", "--format"]
    done = CliRunner().invoke(main, [*command, "panoptic,labels", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "scene-1.panoptic.json").read_text())
    ids = np.asarray(Image.open(tmp_path / document["annotations"][0]["file_name"])).astype(int)
    labels = np.asarray(Image.open(tmp_path / "scene-1.labels.png"))
    for item in document["annotations"][0]["segments_info"]:
        np.testing.assert_array_equal(ids[..., 0] == item["id"], labels == item["category_id"] - 1)
