"""The wheel, installed where the checkout is not in sight, segments with the index inside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 90e6


def test_the_installed_wheel_segments_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
        check=True,
    )
    # The dependencies are shared with this environment; its own, editable freeda is not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    python = environment / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import freeda; print(freeda.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=empty,
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)
    examples = site / "freeda" / "toyworld" / "examples"
    image, classes = examples / "scene-2.png", examples / "classes.txt"
    subprocess.run(
        [python, "-m", "freeda.cli", "segment", image, "--classes", classes, "--out", "out"],
        check=True,
        cwd=empty,
    )
    assert Image.open(empty / "out" / "scene-2.labels.png").size == Image.open(image).size
