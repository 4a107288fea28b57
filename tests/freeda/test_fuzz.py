"""A few mutants of every kind; `python -m tests.freeda.fuzzing INDEX` runs as many as are wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from freeda.index.editing import merge
from freeda.index.format import KEYS
from freeda.index.keys import KeyOptions
from freeda.index.reader import PrototypeIndex
from tests.freeda.fuzzing import KINDS, WEIGHTS
from tests.freeda.methods.flowseg.conftest import checkpoint  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
COUNT = 8


def fuzz(source: Path, *arguments: str) -> str:
    """In a process of its own, whose forks must not share this one's threads."""
    command = [sys.executable, "-m", "tests.freeda.fuzzing", str(source), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def small(index_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "inverted"
    merge([PrototypeIndex.open(index_folder)], folder, keys=KeyOptions(factory="IVF4_HNSW8,SQ8"))
    return folder


def test_crafted_files_and_pictures_are_answered_in_order(index_folder: Path) -> None:
    told = fuzz(index_folder, "--count", str(COUNT))
    assert told.splitlines() == [f"{kind}: 0 of {COUNT} mutants were answered out of order" for kind in KINDS]


def test_crafted_inverted_files_are_answered_in_order(small: Path) -> None:
    told = fuzz(small, "--count", str(COUNT), "--kind", KEYS)
    assert told == f"{KEYS}: 0 of {COUNT} mutants were answered out of order\n"


def test_crafted_weights_are_answered_in_order(checkpoint: Path) -> None:  # noqa: F811
    kinds = [word for kind in WEIGHTS for word in ("--kind", kind)]
    told = fuzz(checkpoint, "--count", str(COUNT), *kinds)
    assert told.splitlines() == [
        f"{kind}: 0 of {COUNT} mutants were answered out of order" for kind in WEIGHTS
    ]
