"""`freeda evaluate --task panoptic` and `--task instance`, and what a result's files say of segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pycocotools import mask as coco_mask

import freeda
from freeda.cli import main
from freeda.errors import DatasetError
from freeda.evaluation.datasets import open_dataset
from freeda.evaluation.panoptic import ClassMatches, PanopticQuality, match_segments
from freeda.evaluation.toy import ToyDataset
from freeda.methods import METHODS
from freeda.segmentation.annotations import OTHER, UNMARKED
from freeda.segmentation.drawing import draw_overlay
from freeda.segmentation.result import Segmentation
from freeda.segmentation.segments import PackedMask, Segment
from tests.freeda.methods.odise.conftest import *  # noqa: F403 - its fixtures


def evaluate(checkpoint: Path, out: Path, *more: object) -> Result:
    fixed = ["evaluate", "toyworld", "--method", "odise", "--weights", checkpoint, "--out", out, "--limit", 2]
    return CliRunner().invoke(main, [str(word) for word in (*fixed, *more)])


def test_panoptic_quality_is_that_of_the_results(checkpoint: Path, tmp_path: Path) -> None:
    done = evaluate(checkpoint, tmp_path / "out", "--task", "panoptic")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    data = ToyDataset()
    stuff = tuple(item.name for number, item in enumerate(data.classes) if number not in data.things)
    model = freeda.load(method="odise", weights=str(checkpoint), stuff=stuff)
    model.set_classes(data.classes)
    total = PanopticQuality(50)
    for number in range(2):
        total.add(match_segments(data.annotated(number), model.segment(data.image(number)).segments))
    assert report["panoptic"]["all"]["pq"] == pytest.approx(100 * total.mean()[0], abs=0.01)
    assert "PQ, things" in done.output and report["settings"]["stuff"] == list(stuff)


def test_a_run_of_another_task_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert evaluate(checkpoint, tmp_path / "out").exit_code == 0
    done = evaluate(checkpoint, tmp_path / "out", "--task", "panoptic")
    assert done.exit_code == 1 and "task 'semantic' instead of 'panoptic'" in done.stderr


def test_average_precision_survives_the_log(checkpoint: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the log
        done = evaluate(checkpoint, tmp_path / "out", "--task", "instance")
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["instances"].keys() == {"ap", "ap50", "ap75"}
    lines = (tmp_path / "out" / "images.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["instances"]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"odise"}))
def test_a_method_without_segments_of_its_own_has_one_per_class(method: str, tmp_path: Path) -> None:
    data, out = ToyDataset(), tmp_path / "out"
    words = ["evaluate", "toyworld", "--method", method, "--out", str(out), "--limit", "1"]
    done = CliRunner().invoke(main, [*words, "--task", "panoptic", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    model = freeda.load(*(["toy"] if method == "freeda" else []), method=method, device="cpu")
    model.set_classes(data.classes)
    found, truth = model.segment(data.image(0)).labels, data.annotated(0).label_map
    for item in report["classes"]:
        own, other = truth == item["label"], found == item["label"]
        if own.any():
            assert item["iou"] == pytest.approx(100 * (own & other).sum() / (own | other).sum(), abs=0.01)
    assert report["panoptic"]["all"]["pq"] > 0
    refused = CliRunner().invoke(main, [*words[:-4], "--out", str(tmp_path / "i"), "--task", "instance"])
    assert refused.exit_code == 1 and "do not tell instances apart" in refused.stderr


def test_perfect_segments_have_a_quality_of_one() -> None:
    data = ToyDataset()
    for number in range(5):
        truth = data.annotated(number)
        found = [
            Segment(n + 1, label, "", 1.0, PackedMask.of(truth.segments == n), True)
            for n, label in enumerate(truth.labels)
        ]
        total = PanopticQuality(50)
        total.add(match_segments(truth, found))
        assert total.mean() == (1, 1, 1)


class Two:
    """Two cats side by side on grass, as a method that tells them apart would give them."""

    def things(self, classes: tuple[str, ...]) -> frozenset[int]:
        return frozenset({0})

    def panoptic(self, size: tuple[int, int], classes: tuple[str, ...]) -> tuple[Segment, ...]:
        masks = np.zeros((3, 20, 30), bool)
        masks[0, 10:], masks[1, :10, :15], masks[2, :10, 15:] = True, True, True
        named = [(1, "grass", 0.9, False), (0, "cat", 0.8, True), (0, "cat", 0.7, True)]
        return tuple(
            Segment(number, label, name, score, PackedMask.of(mask), thing)
            for number, ((label, name, score, thing), mask) in enumerate(zip(named, masks, strict=True), 1)
        )

    def instances(self, size: tuple[int, int], classes: tuple[str, ...]) -> tuple[Segment, ...]:
        return tuple(item for item in self.panoptic(size, classes) if item.is_thing)


@pytest.fixture
def cats() -> Segmentation:
    labels = np.zeros((20, 30), np.int32)
    labels[10:] = 1
    image = np.full((20, 30, 3), 40, np.uint8)
    scores = np.full((20, 30), 0.5, np.float32)
    return Segmentation(image, labels, scores, ("cat", "grass"), segment_source=Two())


def test_files_hold_the_method_s_own_segments(cats: Segmentation, tmp_path: Path) -> None:
    cats.save(tmp_path, "cats", ("coco", "panoptic", "labelstudio"))
    coco = json.loads((tmp_path / "cats.coco.json").read_text())
    assert [(item["category_id"], item["score"], item["area"]) for item in coco["annotations"]] == [
        (2, 0.9, 300),
        (1, 0.8, 150),
        (1, 0.7, 150),
    ]
    decoded = coco_mask.decode(coco_mask.frPyObjects(coco["annotations"][1]["segmentation"], 20, 30))
    np.testing.assert_array_equal(decoded, cats.segments[1].mask)
    panoptic = json.loads((tmp_path / "cats.panoptic.json").read_text())
    assert [item["isthing"] for item in panoptic["categories"]] == [1, 0]
    ids = np.asarray(Image.open(tmp_path / "cats.panoptic.png"))[..., 0]
    np.testing.assert_array_equal(ids, cats.segment_map)
    summary = json.loads((tmp_path / "cats.json").read_text())
    assert summary["panoptic"][1] == {
        "id": 2,
        "class": 0,
        "label": "cat",
        "thing": True,
        "area": 150,
        "box": [0, 0, 15, 10],
        "score": 0.8,
    }
    assert (
        len(json.loads((tmp_path / "cats.labelstudio.json").read_text())[0]["predictions"][0]["result"]) == 3
    )


def test_other_libraries_get_the_segments_too(cats: Segmentation) -> None:
    found = cats.to_transformers()
    np.testing.assert_array_equal(found["segmentation"].numpy(), cats.segment_map)
    assert [item["label"] for item in found["segments_info"]] == ["grass", "cat", "cat"]
    detections = cats.to_supervision()
    assert list(detections.class_id) == [1, 0, 0]
    np.testing.assert_allclose(detections.confidence, [0.9, 0.8, 0.7])


def test_the_overlay_draws_a_border_between_two_things_of_a_class(cats: Segmentation) -> None:
    drawn = np.asarray(draw_overlay(cats, legend=False))
    plain = Segmentation(cats.image, cats.labels, cats.scores, cats.classes)
    merged = np.asarray(draw_overlay(plain, legend=False))
    middle = drawn.shape[1] // 2
    assert (drawn[4, middle - 2 : middle + 3] == 255).all(-1).any()
    assert not (merged[4, middle - 2 : middle + 3] == 255).all(-1).any()


def test_a_method_without_segments_gives_one_per_class() -> None:
    labels = np.array([[0, 0, 1], [1, 1, 255]], np.int32)
    result = Segmentation(np.zeros((2, 3, 3), np.uint8), labels, np.ones((2, 3), np.float32), ("cat", "dog"))
    assert [(item.name, int(item.mask.sum()), item.is_thing) for item in result.segments] == [
        ("dog", 3, False),
        ("cat", 2, False),
    ]
    assert result.instances == ()
    np.testing.assert_array_equal(result.segment_map, [[2, 2, 1], [1, 1, 0]])


def test_a_background_counts_against_segments_and_ignored_pixels_do_not(tmp_path: Path) -> None:
    """Labels of a background, one cat, and a stripe that is ignored."""
    labels = np.zeros((20, 20), np.uint8)
    labels[5:10, 5:10], labels[:, 18:] = 1, 255
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    truth = open_dataset(str(tmp_path)).annotated(0)
    assert truth.labels == (0,) and {*np.unique(truth.segments)} == {OTHER, UNMARKED, 0}
    everything, dog = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    dog[12:16, 2:6] = True
    whole = Segment(1, 0, "cat", 1.0, PackedMask.of(everything), True)
    assert match_segments(truth, [whole]) == [ClassMatches(0, 0.0, 0, 1, 1)]  # an IoU of 25 / 360
    spurious = Segment(2, 1, "dog", 1.0, PackedMask.of(dog), True)
    assert match_segments(truth, [spurious]) == [ClassMatches(0, 0, 0, 0, 1), ClassMatches(1, 0.0, 0, 1, 0)]
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DatasetError, match="is 20 x 10 px, its labels are 20 x 20"):
        open_dataset(str(tmp_path)).annotated(0)


def test_an_unknown_method_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["evaluate", "toyworld", "--method", "nosuch", "--out", str(tmp_path / "x")]
    )
    assert done.exit_code == 1 and "unknown method 'nosuch'; expected one of freeda" in done.stderr
