"""`freeda train`: from annotated images to weights that segment, through kills and refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from freeda.cli import main
from freeda.presets.settings import Preset
from tests.freeda.methods.odise.conftest import *  # noqa: F403 - its fixtures
from tests.freeda.methods.odise.conftest import preset_file

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, each a cat on grass, with labels."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("cat,kitten\ngrass\nsky\n")
    rng = np.random.default_rng(0)
    for number in range(6):
        labels = np.ones((60, 80), np.uint8)
        labels[10 : 30 + number, 20:50] = 0
        labels[:5] = 2
        image = rng.integers(0, 60, (60, 80, 3), dtype=np.uint8) + np.uint8(60) * labels[..., None]
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    return folder


def freeda(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def training(data: object, out: Path, *more: object) -> list[object]:
    common = ["--preset", preset_file(), "--steps", 12, "--batch", 2, "--threads", 1]
    return ["train", "odise", "--data", data, "--out", out, *common, *more]


@pytest.fixture(scope="module")
def whole(odise_preset: Preset, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = freeda(*training(data, out))
    assert done.exit_code == 0, done.stderr
    assert "odise: step 12 of 12, loss" in done.stderr
    assert "A full training, 20,000 steps of 8 images, takes" in done.stdout
    assert f"freeda segment --method odise --weights {out}" in done.stdout
    return out


_KILLED = """
import os, signal, sys
import freeda.training.loop as loop
from freeda.cli import main

loop._CHECKPOINT_SECONDS = 0.0
step = loop._Fitting._step

def killed(self, progress):
    if progress >= 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, progress)

loop._Fitting._step = killed
main(sys.argv[1:])
"""


def test_killed_and_run_again_gives_the_same_weights(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    command = [sys.executable, "-c", _KILLED, *map(str, training(data, out))]
    ended = subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL
    assert (out / "odise.state.safetensors").exists() and not (out / "model.safetensors").exists()
    done = freeda(*training(data, out))
    assert done.exit_code == 0, done.stderr
    for name in ("model.safetensors", "odise.state.safetensors"):
        first, second = load_file(whole / name), load_file(out / name)
        assert first.keys() == second.keys()
        assert all((first[key] == second[key]).all() for key in first), name


def test_the_folder_says_what_it_holds(whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())
    assert config["method"] == "odise" and config["recipe"] == "labels"
    assert config["classes"] == [["cat", "kitten"], ["grass"], ["sky"]]
    assert config["stuff"] == ["cat", "grass", "sky"]
    card = (whole / "README.md").read_text()
    assert "masks and names of 3 kinds" in card and "12 of 12, 2 images each" in card
    assert "6 images, from which 24 were drawn" in card and "| began with | new weights |" in card
    with Image.open(whole / "curve.png") as picture:
        assert picture.width > 300
    assert len((whole / "odise.curve.csv").read_text().splitlines()) == 2


def test_the_weights_segment(whole: Path, data: Path, tmp_path: Path) -> None:
    image = data / "images" / "0.png"
    done = freeda(
        *("segment", image, "--classes", "cat; grass", "--method", "odise"),
        *("--weights", whole, "--format", "labels,panoptic", "--out", tmp_path),
    )
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "0.labels.png") as labels:
        assert labels.size == (80, 60)


def test_other_settings_are_refused_with_what_differs(whole: Path, data: Path) -> None:
    before = {path: path.read_bytes() for path in whole.iterdir()}
    done = freeda(*training(data, whole, "--set", "learning_rate=1e-3"))
    assert done.exit_code == 1
    assert "plan.learning_rate 0.0004 instead of 0.001" in done.stderr and "--overwrite" in done.stderr
    assert {path: path.read_bytes() for path in whole.iterdir()} == before


def test_a_damaged_curve_is_told(whole: Path, data: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "odise.curve.csv").write_text("stp,loss\n10,x\n")
    done = freeda(*training(data, out))
    assert done.exit_code == 1 and "odise.curve.csv' is damaged" in done.stderr and "remove it" in done.stderr
    (out / "odise.curve.csv").unlink()
    done = freeda(*training(data, out))
    assert done.exit_code == 0, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Of its files, but for the state, whose entries have no order, by name."""
    files = (path for path in folder.iterdir() if path.is_file())
    return {path.name: b"" if ".state." in path.name else path.read_bytes() for path in files}


_FULL_DISK = """
import resource, signal, sys
from freeda.cli import main
from freeda.models.checkpoint import Checkpoint
from freeda.training.curve import Curve

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
owner, name = {"weights": (Checkpoint, "write"), "curve": (Curve, "draw")}[sys.argv[1]]
call = getattr(owner, name)

def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return call(*arguments)

setattr(owner, name, limited)
main(sys.argv[2:])
"""


@pytest.mark.parametrize("full_for", ["weights", "curve"])
def test_a_disk_that_is_full_at_the_end_costs_nothing(
    full_for: str, whole: Path, data: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    before = contents(out)
    command = [sys.executable, "-c", _FULL_DISK, *map(str, (full_for, *training(data, out)))]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "make room" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert contents(out) == before
    done = freeda(*training(data, out))
    assert done.exit_code == 0, done.stderr


def test_another_method_s_run_is_replaced_whole(data: Path, odise_preset: Preset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert freeda(*training(data, out, "--steps", 2)).exit_code == 0
    small = [f"--set={key}={value}" for key, value in {"width": 24, "blocks": 1, "heads": 1}.items()]
    common = ("--preset", "toy", "--steps", 1, "--batch", 1, "--threads", 1, "--set", "align_block=1")
    other = ("train", "flowseg", "--data", data, "--out", out, *common, *small)
    done = freeda(*other)
    assert done.exit_code == 1 and "method 'odise' instead of 'flowseg'" in done.stderr
    done = freeda(*other, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["method"] == "flowseg"
    assert not list(out.glob("odise.*"))


def test_a_training_that_has_not_ended_is_told_from_a_folder_without_one(
    data: Path, odise_preset: Preset, tmp_path: Path
) -> None:
    """One whose loss is not finite can be begun from."""
    out = tmp_path / "out"
    done = freeda(*training(data, out, "--set", "learning_rate=1e30"))
    assert done.exit_code == 1 and "--start" in done.stderr and "the loss is nan" in done.stderr
    assert (out / "model.safetensors").exists() and not (out / "README.md").exists()
    (out / "config.json").unlink()
    done = freeda(*training(data, tmp_path / "next", "--start", out))
    assert done.exit_code == 1 and "has not ended; run its command again" in done.stderr


def test_another_range_of_scales_is_another_training(whole: Path, data: Path) -> None:
    done = freeda(*training(data, whole, "--set", "jitter=[0.5, 1.0]"))
    assert done.exit_code == 1 and "conditions.jitter [1.0, 1.0] instead of [0.5, 1.0]" in done.stderr


def test_an_evaluation_s_folder_is_left_alone(data: Path, whole: Path, tmp_path: Path) -> None:
    """And a training's by an evaluation, whatever is to be overwritten."""
    out = tmp_path / "evaluated"
    measuring = ("evaluate", data, "--method", "odise", "--weights", whole, "--limit", 1)
    assert freeda(*measuring, "--out", out).exit_code == 0
    done = freeda(*training(data, out, "--overwrite"))
    assert done.exit_code == 1 and "is no run of `freeda train`" in done.stderr
    assert freeda(*measuring, "--out", out).exit_code == 0
    done = freeda(*measuring, "--out", whole, "--overwrite")
    assert done.exit_code == 1 and "is no run of `freeda evaluate`" in done.stderr


def test_two_processes_train_though_one_has_nothing_to_learn(
    data: Path, odise_preset: Preset, tmp_path: Path
) -> None:
    """Half of the images are all ignored: a process with such a one must still take its part."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    for number in (1, 3, 5):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(folder / "labels" / f"{number}.png")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words = training(folder, tmp_path / "out", "--device", "cpu")
    done = subprocess.run(
        [*launch, "-m", "freeda.cli", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "odise: step 12 of 12" in done.stderr and done.stdout.count("written ") == 1
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.isfinite(tensor.float()).all() for tensor in held.values())


def test_benchmarks_are_not_learnt_from(tmp_path: Path) -> None:
    done = freeda(*training("toyworld-things", tmp_path / "out"))
    assert done.exit_code == 1 and "no training data 'toyworld-things'" in done.stderr


def test_a_folder_with_other_files_is_left_alone(data: Path, odise_preset: Preset, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    done = freeda(*training(data, tmp_path, "--overwrite"))
    assert done.exit_code == 1 and "holds other files (letter.txt)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_only_seen_classes_are_learnt(data: Path, odise_preset: Preset, tmp_path: Path) -> None:
    (tmp_path / "seen.txt").write_text("kitten\ngrass\n")
    out = tmp_path / "out"
    done = freeda(*training(data, out, "--seen", tmp_path / "seen.txt", "--steps", 2))
    assert done.exit_code == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["classes"] == [["cat", "kitten"], ["grass"]]
    (tmp_path / "seen.txt").write_text("")
    done = freeda(*training(data, tmp_path / "none", "--seen", tmp_path / "seen.txt"))
    assert done.exit_code == 1 and "no class is named that is to be learnt" in done.stderr
    (tmp_path / "seen.txt").write_text("unicorn\n")
    done = freeda(*training(data, tmp_path / "other", "--seen", tmp_path / "seen.txt"))
    assert done.exit_code == 1 and "no class 'unicorn' in the data" in done.stderr


def test_captions_are_compared_with_others(odise_preset: Preset, tmp_path: Path) -> None:
    for sizes in (("--batch", 1), ("--batch", 4, "--at-once", 1)):
        done = freeda(*training("toyworld", tmp_path / "out", "--recipe", "captions", *sizes))
        assert done.exit_code == 1 and "recipe captions compares images of a pass" in done.stderr


def test_captions_are_needed_for_the_recipe_that_learns_from_them(data: Path, tmp_path: Path) -> None:
    done = freeda(*training(data, tmp_path / "out", "--recipe", "captions"))
    assert done.exit_code == 1 and "recipe captions needs captions" in done.stderr


def test_the_toy_world_is_learnt_from_captions(
    tmp_path: Path, odise_preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.commands.train._HELD_OUT", 2)
    done = freeda(*training("toyworld", tmp_path / "out", "--recipe", "captions", "--steps", 3))
    assert done.exit_code == 0, done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["recipe"] == "captions" and len(config["classes"]) == 38


def test_a_training_can_begin_with_the_weights_of_another(whole: Path, data: Path, tmp_path: Path) -> None:
    """At a learning rate of almost nothing, they stay what they were."""
    slow = ("--set", "learning_rate=1e-12", "--set", "ema_decay=0.0", "--steps", 2)
    done = freeda(*training(data, tmp_path / "out", "--start", whole, *slow))
    assert done.exit_code == 0, done.stderr
    first, second = (load_file(path / "model.safetensors") for path in (whole, tmp_path / "out"))
    assert all(np.allclose(first[name], second[name], atol=1e-3) for name in first)
    done = freeda(*training(data, tmp_path / "out", *slow))
    assert done.exit_code == 1 and "data.start" in done.stderr
    done = freeda(*training(data, tmp_path / "none", "--start", data))
    assert done.exit_code == 1 and "holds no trained weights" in done.stderr


def test_the_toy_world_s_training_tells_what_held_out_scenes_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odise_preset: Preset
) -> None:
    monkeypatch.setattr("freeda.commands.train._HELD_OUT", 2)
    done = freeda(*training("toyworld", tmp_path / "out", "--steps", 2))
    assert done.exit_code == 0, done.stderr
    assert "mIoU of 2 held-out scenes, all 50 kinds: " in done.stdout and "(before: " in done.stdout
    assert "| mIoU of 2 held-out scenes" in (tmp_path / "out" / "README.md").read_text()
