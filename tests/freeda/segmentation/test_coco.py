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
from freeda.segmentation.coco import coco_document, run_lengths
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
