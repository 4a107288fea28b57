from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freeda.errors import OutputError
from freeda.segmentation.decision import ignore_index_for
from freeda.segmentation.drawing import class_colors
from freeda.segmentation.result import Segmentation


@pytest.fixture
def result() -> Segmentation:
    labels = np.zeros((40, 60), np.int32)
    labels[:, 30:] = 2
    labels[0, 0] = 255
    image = np.full((40, 60, 3), 100, np.uint8)
    scores = np.where(labels == 2, 0.75, 0.5).astype(np.float32)
    return Segmentation(image, labels, scores, ("cat", "dog", "grass"))


def test_segments_are_counted_largest_first(result: Segmentation) -> None:
    first, second = result.segments_info
    assert (first["label"], first["area"], first["score"]) == ("grass", 1200, 0.75)
    assert (second["label"], second["area"]) == ("cat", 1199)
    assert result.mask("grass").sum() == 1200


def test_saved_files_hold_the_labels(result: Segmentation, tmp_path: Path) -> None:
    paths = result.save(tmp_path / "new", "x", ("labels", "overlay", "npz"))
    assert [path.name for path in paths] == ["x.labels.png", "x.overlay.png", "x.npz", "x.json"]
    picture = Image.open(paths[0])
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), result.labels)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[10, 40], class_colors(result.classes)[2])
    stored = np.load(paths[2])
    np.testing.assert_array_equal(stored["labels"], result.labels)
    report = json.loads(paths[3].read_text())
    assert (report["height"], report["width"], report["undecided"]) == (40, 60, 1)
    assert report["segments"] == result.segments_info


def test_the_overlay_shows_image_colours_and_legend(result: Segmentation) -> None:
    overlay = np.asarray(result.overlay(opacity=0.5))
    assert overlay.shape[1] > 256
    expected = 50 + class_colors(result.classes)[2] / 2
    np.testing.assert_allclose(overlay[85, 200], expected, atol=1)


def test_more_than_255_classes_are_saved_with_16_bits(tmp_path: Path) -> None:
    classes = tuple(f"class {n}" for n in range(300))
    labels = np.array([[0, 299], [255, 65535]], np.int32)
    result = Segmentation(
        np.zeros((2, 2, 3), np.uint8), labels, np.zeros((2, 2), np.float32), classes, ignore_index_for(300)
    )
    path = result.save(tmp_path, formats=("labels",))[0]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), labels)
    assert [item["id"] for item in result.segments_info] == [0, 255, 299]


def test_colours_differ() -> None:
    colors = class_colors([f"c{n}" for n in range(60)])
    assert len(np.unique(colors, axis=0)) == 60


def test_unwritable_places_are_named(result: Segmentation, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*choose another --out"):
        result.save(blocked / "out")


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        Segmentation(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 2), np.int32), np.zeros((2, 2)), ("a",))
