from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import freeda
from freeda.errors import ConfigError, OutputError
from freeda.segmentation import FORMATS
from freeda.segmentation.decision import ignore_index_for
from freeda.segmentation.drawing import draw_overlay
from freeda.segmentation.result import Segmentation
from freeda.toyworld.make_examples import EXAMPLES


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
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[10, 40], result.colors[2])
    stored = np.load(paths[2])
    np.testing.assert_array_equal(stored["labels"], result.labels)
    report = json.loads(paths[3].read_text())
    assert (report["height"], report["width"], report["undecided"]) == (40, 60, 1)
    assert report["segments"] == result.segments_info


def test_the_overlay_shows_image_colours_and_legend(result: Segmentation) -> None:
    overlay = np.asarray(draw_overlay(result, opacity=0.5))
    assert overlay.shape[1] > 256
    expected = 50 + result.colors[2] / 2
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


def test_names_stand_where_they_fit(result: Segmentation) -> None:
    """Of a region of a few pixels only the legend tells the name."""
    labels = result.labels.copy()
    labels[10:13, 5:8] = 1
    overlay = np.asarray(draw_overlay(replace(result, labels=labels), opacity=1.0)).astype(int)
    halo = overlay.sum(-1) < 30  # letters have a black one; the image is 256 pixels wide
    assert halo[:, 132:254].sum() > 20  # "grass"
    assert halo[10:40, 2:124].sum() == 0
    assert halo[44:54, 23:33].sum() == 0  # "dog", 13 pixels wide
    assert halo[60:, 2:124].sum() > 20  # "cat", deepest inside what is left


def test_unwritable_places_are_named(result: Segmentation, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*choose another --out"):
        result.save(blocked / "out")


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        Segmentation(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 2), np.int32), np.zeros((2, 2)), ("a",))


def test_score_maps_are_saved_as_float16(tmp_path: Path) -> None:
    result = freeda.load("toy").segment(EXAMPLES / "scene-1.png", "hammer; sky; sand; owl")
    (path, _) = result.save(tmp_path, "a", ["scores"])
    with np.load(path) as saved:
        found = [item["label"] for item in result.segments_info]
        assert saved["classes"].tolist() == found
        assert saved["scores"].dtype == np.float16
        np.testing.assert_allclose(saved["scores"], result.score_maps(found), atol=1e-3)
        labels = saved["scores"].argmax(0)
    agreeing = np.array([result.classes.index(name) for name in found])[labels] == result.labels
    assert agreeing.mean() > 0.995  # float16 rounds


def test_a_result_without_a_method_has_no_score_maps(patchwork: Segmentation) -> None:
    with pytest.raises(ConfigError, match="no scores per class"):
        patchwork.score_maps(["cat"])


def test_every_format_has_a_writer_and_the_files_it_names(patchwork: Segmentation, tmp_path: Path) -> None:
    chosen = [name for name in FORMATS if name != "scores"]
    written = patchwork.save(tmp_path, "a", chosen)
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == len(chosen) + 2  # the summary, and the panoptic map's document
    with pytest.raises(ConfigError, match="unknown format 'gif'"):
        patchwork.save(tmp_path, "a", ["gif"])
