# ruff: noqa: F811 - fixtures of other modules
"""`freeda train` on COCO's panoptic format, and DiGSeg through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from freeda.cli import main
from freeda.presets.settings import Preset
from tests.freeda.evaluation.test_coco_panoptic import folder  # noqa: F401 - a fixture
from tests.freeda.methods.digseg.conftest import digseg_preset  # noqa: F401 - a fixture
from tests.freeda.methods.digseg.conftest import preset_file as digseg_file
from tests.freeda.methods.odise.conftest import *  # noqa: F403 - its fixtures
from tests.freeda.methods.odise.conftest import preset_file as odise_file


def freeda(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def train(method: str, preset: Path, data: Path, out: Path, *more: object) -> Result:
    common = ("--preset", preset, "--steps", 2, "--batch", 2, "--threads", 1)
    return freeda("train", method, "--data", data, "--out", out, *common, *more)


@pytest.mark.parametrize("recipe", ["labels", "captions"])
def test_odise_trains_on_coco_s_panoptic_format(
    recipe: str,
    folder: Path,
    odise_preset: Preset,
    tmp_path: Path,
) -> None:
    sentences = {"annotations": [{"image_id": 77, "caption": "two cats before a wall."}]}
    (folder / "annotations" / "captions_val.json").write_text(json.dumps(sentences))
    done = train("odise", odise_file(), folder, tmp_path / "run", "--recipe", recipe)
    assert done.exit_code == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"] == [["cat"], ["wall"], ["door"]] and config["recipe"] == recipe
    card = (tmp_path / "run" / "README.md").read_text()
    assert "1 images, from which 4 were drawn" in card
    assert "| held-out figures | none measured; `freeda evaluate` does |" in card


def test_digseg_trains_and_segments_by_the_command(
    folder: Path,
    digseg_preset: Preset,
    tmp_path: Path,
) -> None:
    done = train("digseg", digseg_file(), folder, tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    weights = ("--method", "digseg", "--weights", tmp_path / "run")
    done = freeda("segment", folder / "val" / "a.jpg", "--classes", "cat; wall", *weights, "--out", tmp_path)
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "a.labels.png") as labels:
        assert labels.size == (8, 6)
