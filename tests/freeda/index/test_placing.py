from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from freeda.cli import main
from freeda.index.placing import placed
from freeda.index.reader import PrototypeIndex
from freeda.presets.settings import Preset
from tests.conftest import WIDTH
from tests.freeda.material import random_prototypes, write_index

PRINTS = {"diffusion": "-", "clip": "-", "backbone": "-"}
OTHER_INDEX = "holds an index already"


@pytest.fixture
def index(tiny_preset: Preset, tmp_path: Path) -> Path:
    return write_index(tmp_path / "index", random_prototypes(20, WIDTH, WIDTH), tiny_preset, PRINTS)


def commands(index: Path, captions: Path, out: Path) -> dict[str, list[str]]:
    """Every command that writes an index."""
    embeddings = out.parent / "embeddings"
    embeddings.mkdir(exist_ok=True)
    np.save(embeddings / "cat.npy", np.zeros(4, np.float32))
    to = ["--out", str(out)]
    return {
        "build-index": ["build-index", str(captions), *to, "--limit", "1"],
        "merge": ["index", "merge", str(index), *to],
        "subset": ["index", "subset", str(index), "--nouns", "noun 1", *to],
        "dedupe": ["index", "dedupe", str(index), *to],
        "import-upstream": ["index", "import-upstream", str(embeddings), str(index / "keys.faiss"), *to],
    }


@pytest.mark.parametrize("name", ["build-index", "merge", "subset", "dedupe", "import-upstream"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stranger_s_files_are_never_replaced(
    name: str, overwrite: bool, index: Path, captions_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for file in ("README.md", "manifest.json", "thesis.tex"):
        (out / file).write_text(f"my own {file}")
    command = commands(index, captions_file, out)[name] + ["--overwrite"] * overwrite
    if name == "import-upstream":
        command += ["--preset", "toy"]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 1, shown.output
    expected = "is no index and holds other files (README.md and 2 more)"
    assert expected in shown.stderr
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        file: f"my own {file}" for file in ("README.md", "manifest.json", "thesis.tex")
    }


def test_files_beside_an_index_stay(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert CliRunner().invoke(main, ["index", "merge", str(index), "--out", str(out)]).exit_code == 0
    (out / "NOTES.md").write_text("mine")
    command = ["index", "dedupe", str(index), "--out", str(out)]
    assert OTHER_INDEX in CliRunner().invoke(main, command).stderr
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    assert (out / "NOTES.md").read_text() == "mine"
    PrototypeIndex.open(out, verify=True)
    assert not (out / ".new").exists()


def test_a_full_disk_leaves_the_old_index(index: Path, tiny_preset: Preset, tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk's."""
    larger = write_index(tmp_path / "larger", random_prototypes(400, WIDTH, WIDTH), tiny_preset, PRINTS)
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    sizes = {path.name: path.stat().st_size for path in larger.iterdir()}
    for name in ("keys.faiss", "prototypes.arrow"):
        limit = sizes[name] - 100

        def small_disk(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        command = [sys.executable, "-m", "freeda.cli", "index", "merge", str(larger), "--out", str(index)]
        failed = subprocess.run(
            [*command, "--overwrite"], capture_output=True, text=True, preexec_fn=small_disk
        )
        assert failed.returncode == 1
        assert "cannot write the index" in failed.stderr
        assert {path.name: path.read_bytes() for path in index.iterdir()} == before


def test_what_is_not_finished_takes_nobody_s_place(index: Path) -> None:
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    with pytest.raises(ZeroDivisionError), placed(index) as new:
        (new / "keys.faiss").write_bytes(b"half")
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before
    assert os.listdir(index)
