"""Every command and code block of the README and the docs runs as it stands, or is marked as not run."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import click
import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from click.testing import CliRunner
from nbclient import NotebookClient
from PIL import Image
from rasterio.transform import from_origin

from freeda.cli import main
from freeda.toyworld.make_examples import EXAMPLES

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "indexes/README.md", "index_build/README.md")),
    *(ROOT / "freeda/toyworld/README.md", *sorted((ROOT / "docs").rglob("*.md"))),
]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOT_OURS = ("make", "pip", "hf", "sbatch", "dask", "srun", "python", ".venv/bin/python", ".venv/bin/freeda")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block. runs: whether it is to be run; else it is looked at only."""

    language: str
    text: str
    runs: bool

    def commands(self) -> Iterator[list[str]]:
        """The words of each command of a shell block."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words[: words.index(">")] if ">" in words else words


def blocks(path: Path) -> list[Block]:
    return [Block(found[2], found[3], not found[1]) for found in BLOCK.finditer(path.read_text("utf-8"))]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    scene = Image.open(EXAMPLES / "scene-6.png").convert("RGB")
    scene.save("photo.jpg")
    for name in ("images/a.png", "images/deeper/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        scene.save(name)
    (tmp_path / "classes.txt").write_text("pig\ncar,automobile\nbrick\n")
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    scene.save("photos/a.png")
    marked = np.full(scene.size[::-1], 255, np.uint8)
    marked[:30] = 2
    Image.fromarray(marked).save("masks/a.png")
    captions = ["a red cat on grass", "a dog on sand", "an owl in the snow"]
    pq.write_table(pa.table({"caption": captions}), "captions.parquet")
    pq.write_table(pa.table({"caption": ["a blue boat on water"]}), "more.parquet")
    pixels = np.asarray(scene)
    options = {"height": pixels.shape[0], "width": pixels.shape[1], "count": 3, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}
    with rasterio.open("ortho.tif", "w", driver="GTiff", **options, **place) as raster:
        raster.write(pixels.transpose(2, 0, 1))
    _write_video(tmp_path / "clip.mp4", pixels)
    return tmp_path


def _write_video(path: Path, pixels: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def parsed(words: list[str]) -> None:
    """Raises for a command, an option or a value of an option that there is not; runs nothing."""
    command: click.Command = main
    while isinstance(command, click.Group):
        name, words = words[0], words[1:]
        command = command.commands[name]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_what_a_page_shows_works(path: Path, workplace: Path) -> None:
    for block in blocks(path):
        if block.language == "python" and block.runs:
            (workplace / "shown.py").write_text(block.text)
            runpy.run_path("shown.py", run_name="shown")
        elif block.language == "python":
            compile(block.text, named(path), "exec")
        elif block.language == "sh":
            for words in block.commands():
                _check(words, block.runs)


def _check(words: list[str], runs: bool) -> None:
    if words[0] != "freeda":
        assert not runs or words[0] in NOT_OURS, words
    elif runs:
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, (words, done.output)
    else:
        parsed(words[1:])


def test_most_blocks_are_run() -> None:
    held = [block for path in PAGES for block in blocks(path) if block.language in ("sh", "python")]
    commands = [words for block in held if block.runs for words in block.commands() if words[0] == "freeda"]
    assert len(commands) >= 30
    assert sum(block.runs for block in held) > 0.5 * len(held)


@pytest.mark.parametrize(
    "words", [["segment", "a.png"], ["segment", "a.png", "--classes", "a", "--no-such"], ["nothing"]]
)
def test_wrong_commands_would_be_found(words: list[str], workplace: Path) -> None:
    with pytest.raises((click.UsageError, KeyError)):
        parsed(words)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_files_that_a_page_names_exist(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    assert "Segments images into any classes" in api and 'id="freeda.load"' in api


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_execute_and_are_committed_executed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code[2:]), "commit the notebook with its outputs"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert notebook.cells[-1].source.startswith("## Exercise")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
