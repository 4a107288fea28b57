"""`freeda reproduce`, on files laid out as VOC's and an index of random weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from freeda.cli import main
from freeda.evaluation.datasets import open_dataset
from freeda.evaluation.layouts import DATASETS
from freeda.evaluation.published import PUBLISHED, SUPERPIXELS
from freeda.methods import load


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three images in VOC 2012's folders."""
    home, rng = tmp_path / "data" / "VOCdevkit" / "VOC2012", np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    for name in "abc":
        pixels = rng.integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(home / "JPEGImages" / f"{name}.jpg")
        labels = Image.fromarray(np.kron(rng.integers(1, 21, (3, 4)), np.ones((20, 20))).astype(np.uint8))
        labels.save(home / "SegmentationClass" / f"{name}.png")
    (home / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nb\nc\n")
    return tmp_path / "data"


def reproduce(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["reproduce", *map(str, arguments)])


def test_every_benchmark_has_a_published_figure() -> None:
    assert set(PUBLISHED) == set(SUPERPIXELS) == set(DATASETS)


def test_the_figure_stands_beside_the_published_ones(voc: Path, index_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = reproduce("voc20", "--root", voc, "--index", index_folder, "--device", "cpu", "--out", out)
    assert done.exit_code == 0, done.output
    assert re.search(r"data set +3 images\nindex +[\d,]+ prototypes\nmodels +tiny, on cpu\n", done.stdout)
    ours = float(re.search(r"([\d.]+) +here: ", done.stdout)[1])
    assert ours == pytest.approx(_miou(voc, index_folder), abs=0.006)
    assert f"{86.2:6.2f}  {ours - 86.2:+6.2f}  published: the authors' code, run again" in done.stdout
    assert f"{85.6:6.2f}  {ours - 85.6:+6.2f}  published: FreeDA with ViT-B/14" in done.stdout
    assert done.stdout.count("another backbone than here") == 2
    part = reproduce(
        *("voc20", "--root", voc, "--index", index_folder, "--device", "cpu", "--limit", 2),
        *("--out", tmp_path / "part"),
    )
    assert "on 2 of 3 images only" in part.stdout


def test_superpixels_are_those_of_the_data_set(tmp_path: Path, index_folder: Path) -> None:
    home = tmp_path / "data" / "cityscapes"
    for path, pixels in (
        ("leftImg8bit/val/a/a_leftImg8bit.png", np.zeros((40, 60, 3), np.uint8)),
        ("gtFine/val/a/a_gtFine_labelTrainIds.png", np.ones((40, 60), np.uint8)),
    ):
        (home / path).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(home / path)
    out = tmp_path / "out"
    done = reproduce("cityscapes", "--root", tmp_path / "data", "--index", index_folder, "--out", out)
    assert done.exit_code == 0, done.output
    settings = json.loads((out / "run.json").read_text())
    assert settings["superpixels"] == {
        **{"algorithm": "felzenszwalb", "scale": 20.0, "sigma": 0.5, "min_size": 50}
    }
    assert (settings["neighbors"], settings["resizing"]) == (350, "plain")


def _miou(root: Path, index: Path) -> float:
    """In percent, from the labels themselves."""
    data = open_dataset("voc20", root)
    model = load(index, recipe="paper", device="cpu")
    model.set_classes(data.classes)
    found = np.stack([model.segment(data.image(number)).labels for number in range(3)])
    truth = np.stack([data.truth(number) for number in range(3)])
    scores = []
    for label in range(20):
        union = ((found == label) | (truth == label)) & (truth != 255)
        if union.any():
            scores.append(((found == label) & (truth == label)).sum() / union.sum())
    return 100 * float(np.mean(scores))


def test_steps_that_cannot_be_done_are_told_with_what_they_need(voc: Path, tmp_path: Path) -> None:
    nothing = reproduce("ade20k", "--root", tmp_path / "none", "--index", tmp_path / "index")
    assert nothing.exit_code == 1
    assert re.search(r"data set +missing: .*\n +docs/reproduce.md says where to get it", nothing.stdout)
    assert re.search(r"index +missing: no index .*\n +import the authors' prototypes", nothing.stdout)
    some = reproduce("voc20", "--root", voc, "--index", tmp_path / "index")
    assert some.exit_code == 1
    assert "data set  3 images" in some.stdout and "index     missing" in some.stdout
