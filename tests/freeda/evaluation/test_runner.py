from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from freeda.class_names import ClassName
from freeda.cli import main
from freeda.errors import DatasetError, OutputError
from freeda.evaluation.datasets import ToyDataset, open_dataset
from freeda.evaluation.report import summary, table
from freeda.evaluation.runner import RunFolder, evaluate
from freeda.methods.base import Scores
from freeda.methods.freeda import FreedaSegmenter, load
from freeda.methods.segmenter import MethodSegmenter
from freeda.toyworld.scenes import draw_scene, scene_rng

NAMES = ("cat", "dog", "grass", "sky")
COUNT = 5


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A data set of five scenes with arbitrary labels of four classes and some ignored pixels."""
    folder = tmp_path / "own"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    for number in range(COUNT):
        scene = draw_scene(scene_rng("validation", number), (60, 80))
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.png")
        labels = np.where(scene.labels < 4, 255, scene.labels % 4).astype(np.uint8)
        labels[:3] = 255
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    return folder


@pytest.fixture
def segmenter(index_folder: Path) -> FreedaSegmenter:
    return load(index_folder)


def saved(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((folder / "predictions").glob("*.png"))]


def truths(folder: Path) -> list[np.ndarray]:
    return [np.array(Image.open(path)) for path in sorted((folder / "labels").glob("*.png"))]


def test_figures_equal_scikit_learn_s_on_the_saved_predictions(
    segmenter: FreedaSegmenter, own: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = evaluate(segmenter, open_dataset(str(own), None), RunFolder(out, save_predictions=True))
    truth = np.concatenate([item.ravel() for item in truths(own)])
    predicted = np.concatenate([item.ravel() for item in saved(out)])
    counted = truth != 255
    truth, predicted = truth[counted], predicted[counted]
    np.testing.assert_array_equal(
        run.matrix().counts()[:, :4], confusion_matrix(truth, predicted, labels=range(4))
    )
    figures = summary(run)
    present = sorted({*truth, *predicted})
    expected = jaccard_score(truth, predicted, average="macro", labels=present)
    assert figures["miou"] == pytest.approx(100 * expected, abs=0.01)
    assert figures["pixel_accuracy"] == pytest.approx(100 * (truth == predicted).mean(), abs=0.01)
    assert figures["paths"]["regions pooled"] > 0
    assert figures["protocol"]["vocabulary"] == "all classes of the data set"


def test_an_interrupted_run_goes_on(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(own), None)
    whole = evaluate(segmenter, dataset, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        evaluate(segmenter, dataset, out, on_progress=stop)
    log = out / "images.jsonl"
    log.write_text(log.read_text()[:-20])  # as a power cut in the middle of a write leaves it
    seen: list[int] = []
    resumed = evaluate(segmenter, dataset, out, on_progress=lambda done, total: seen.append(done))
    assert seen[0] == 2
    assert [(r.name, r.pairs) for r in resumed.records] == [(r.name, r.pairs) for r in whole.records]


def test_a_smaller_limit_takes_the_first_images(
    segmenter: FreedaSegmenter, own: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(str(own), None)
    evaluate(segmenter, dataset, tmp_path / "out")
    run = evaluate(segmenter, dataset, tmp_path / "out", limit=2)
    assert [record.name for record in run.records] == ["0", "1"]


def test_predictions_do_not_depend_on_the_truth(
    segmenter: FreedaSegmenter, own: Path, tmp_path: Path
) -> None:
    evaluate(segmenter, open_dataset(str(own), None), RunFolder(tmp_path / "a", save_predictions=True))
    for path in (own / "labels").glob("*.png"):
        Image.fromarray(np.full((60, 80), 3, np.uint8)).save(path)
    evaluate(segmenter, open_dataset(str(own), None), RunFolder(tmp_path / "b", save_predictions=True))
    for before, after in zip(saved(tmp_path / "a"), saved(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_another_run_s_folder_is_refused(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(own), None)
    evaluate(segmenter, dataset, tmp_path / "out", limit=1)
    segmenter.method.settings = replace(segmenter.method.settings, neighbors=4)
    with pytest.raises(OutputError, match=r"neighbors 3 instead of 4.*--overwrite"):
        evaluate(segmenter, dataset, tmp_path / "out", limit=1)
    run = evaluate(segmenter, dataset, RunFolder(tmp_path / "out", overwrite=True), limit=1)
    assert len(run.records) == 1


def test_another_class_list_is_another_run(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    evaluate(segmenter, open_dataset(str(own), None), tmp_path / "out")
    (own / "classes.txt").write_text("dog\ncat\ngrass\nsky\n")
    with pytest.raises(OutputError, match="content"):
        evaluate(segmenter, open_dataset(str(own), None), tmp_path / "out")


def test_predictions_asked_for_later_are_made(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(str(own), None), tmp_path / "out"
    before = evaluate(segmenter, dataset, out)
    after = evaluate(segmenter, dataset, RunFolder(out, save_predictions=True))
    assert len(saved(out)) == len(after.records) == COUNT
    np.testing.assert_array_equal(before.matrix().counts(), after.matrix().counts())


def test_nothing_to_count_is_said(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    for path in (own / "labels").glob("*.png"):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(path)
    figures = summary(evaluate(segmenter, open_dataset(str(own), None), tmp_path / "out"))
    assert figures["miou"] is None
    assert "no pixel of them counts" in table(figures)


def test_labels_of_another_size_are_refused(segmenter: FreedaSegmenter, own: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 80), np.uint8)).save(own / "labels" / "0.png")
    with pytest.raises(DatasetError, match="0: the image is 80 x 60 px, its labels 80 x 30"):
        evaluate(segmenter, open_dataset(str(own), None), tmp_path / "out")


def test_the_command_prints_and_writes_a_report(index_folder: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(own), "--index", str(index_folder), "--out", str(out)]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    assert "mIoU" in shown.output
    figures = json.loads((out / "report.json").read_text())
    again = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(again.stdout)["miou"] == figures["miou"]
    assert figures["images"] == COUNT
    rows = list(csv.DictReader((out / "classes.csv").open()))
    assert [row["name"] for row in rows] == list(NAMES)
    for name in ("confusion.png", "worst.png"):
        picture = np.array(Image.open(out / name).convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_a_background_class_is_answered(index_folder: Path, own: Path, tmp_path: Path) -> None:
    (own / "classes.txt").write_text("background\ncat\ndog\ngrass\n")
    command = ["evaluate", str(own), "--index", str(index_folder), "--out", str(tmp_path / "o"), "--json"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert figures["protocol"]["background"] == "the index's other nouns"
    assert [item["name"] for item in figures["classes"]] == ["background", "cat", "dog", "grass"]


@pytest.mark.parametrize("concepts", ["none", "grass; sky"])
def test_the_oracle_threshold_is_the_best_of_a_sweep(
    index_folder: Path, tmp_path: Path, concepts: str
) -> None:
    dataset = ToyDataset(count=2, side=60, background=True)
    segmenter = load(index_folder, background=True, background_concepts=concepts, threshold=0.4)
    run = evaluate(segmenter, dataset, tmp_path / "o")
    again = evaluate(segmenter, dataset, tmp_path / "o")  # from the log
    truth = np.concatenate([dataset.truth(number).ravel() for number in range(2)])
    swept = {}
    for threshold in (np.arange(100) / 100).tolist():
        segmenter.method.settings = replace(segmenter.method.settings, background=threshold)
        found = list(segmenter.stream([dataset.image(number) for number in range(2)]))
        predicted = np.concatenate([result.labels.ravel() for result in found])
        present = np.unique(np.concatenate([truth, predicted]))
        swept[threshold] = jaccard_score(truth, predicted, labels=present, average="macro")
    best = max(swept.values())
    for item in (run, again):
        oracle = summary(item)["oracle_threshold"]
        assert oracle["miou"] == pytest.approx(100 * best, abs=0.01)
        assert swept[oracle["threshold"]] == pytest.approx(best)
    assert len(set(swept.values())) > 3
    assert summary(run)["miou"] == pytest.approx(100 * swept[0.4], abs=0.01)
    assert "the best threshold by these very labels" in table(summary(run))


def test_without_a_background_there_is_no_threshold(
    segmenter: FreedaSegmenter, own: Path, tmp_path: Path
) -> None:
    figures = summary(evaluate(segmenter, open_dataset(str(own), None), tmp_path / "o"))
    assert figures["oracle_threshold"] is None
    assert "oracle" not in table(figures)


def test_undecided_pixels_are_of_no_class_at_any_threshold(tmp_path: Path) -> None:
    dataset = ToyDataset(count=1, side=20, background=True)

    class Undecided:
        """Finds a score for the left half of the picture only."""

        batch, identity, image_settings, background = 1, {"method": "undecided"}, None, 0.4

        def with_background(self, background: bool) -> Undecided:
            return self

        def encode_classes(self, classes: tuple[ClassName, ...]) -> int:
            return len(classes)

        def prepare(self, pixels: np.ndarray) -> np.ndarray:
            return pixels

        def encode_images(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            return images

        def score(self, images: Sequence[np.ndarray], classes: int) -> list[Scores]:
            scores = torch.full((classes, 20, 20), 0.5)
            scores[:, :, 10:] = float("nan")
            return [Scores(scores)] * len(images)

    run = evaluate(MethodSegmenter(Undecided()), dataset, tmp_path / "o")
    for threshold, matrix in run.at_thresholds():
        counts = matrix.counts()
        assert counts.sum() == 400
        assert counts[:, -1].sum() == 200, threshold
        assert counts[:, 0].sum() == (200 if threshold >= 0.5 else 0)


def test_a_log_of_an_earlier_version_is_refused(
    segmenter: FreedaSegmenter, own: Path, tmp_path: Path
) -> None:
    evaluate(segmenter, open_dataset(str(own), None), tmp_path / "o", limit=1)
    log = tmp_path / "o" / "images.jsonl"
    held = json.loads(log.read_text())
    del held["foreground"]
    log.write_text(json.dumps(held) + "\n")
    with pytest.raises(OutputError, match="by an earlier version of freeda; add --overwrite"):
        evaluate(segmenter, open_dataset(str(own), None), tmp_path / "o", limit=1)


def test_background_concepts_are_named_in_the_protocol(index_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", "toyworld-things", "--limit", "2", "--background-concepts", "grass; sky; CAT"]
    command += ["--threshold", "0.3"]
    command += ["--index", str(index_folder), "--out", str(tmp_path / "o"), "--json"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    figures = json.loads(shown.stdout)
    assert figures["protocol"]["background"] == "constant score and 2 concepts"
    assert figures["classes"][0]["name"] == "background"
    assert len(figures["classes"]) == 41
