from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import freeda
from freeda.cli import main
from freeda.errors import IndexNotFoundError, UntrustedIndexError
from freeda.index.finding import find_index
from freeda.index.reader import PrototypeIndex
from freeda.presets.settings import Preset
from index_build.append import append
from index_build.config import CaptionColumns
from tests.conftest import WIDTH
from tests.freeda.material import random_prototypes, write_index


def test_packaged_indexes_come_before_what_lies_here(
    index_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = find_index("toy")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "toy", tmp_path / "indexes" / "toy"):
        shutil.copytree(index_folder, folder)
    assert find_index("toy") == packaged
    assert find_index("./toy").resolve() == tmp_path / "toy"
    assert PrototypeIndex.open(Path("toy")).folder.resolve() == tmp_path / "toy"
    shutil.move(tmp_path / "toy", tmp_path / "mine")
    with pytest.raises(IndexNotFoundError, match="The folder of that name here is ./mine"):
        find_index("mine")


def test_models_that_only_the_index_names_are_not_loaded(
    tiny_preset: Preset, clip_folder: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "evil-clip"
    shutil.copytree(clip_folder, evil)
    preset = replace(tiny_preset, models={**tiny_preset.models, "clip": (str(evil),)})
    prints = {name: "-" for name in ("diffusion", "clip", "backbone")} | {"precision": "float32"}
    folder = write_index(tmp_path / "index", random_prototypes(20, WIDTH, WIDTH), preset, prints)
    expected = f"names models that no preset of this machine does .clip {evil}.*--trust-models"
    with pytest.raises(UntrustedIndexError, match=expected):
        freeda.load(folder)
    with pytest.raises(UntrustedIndexError, match=expected):
        append(folder, "captions.parquet", CaptionColumns())
    Image.new("RGB", (60, 60)).save(tmp_path / "image.png")
    image, named = str(tmp_path / "image.png"), ["--index", str(folder)]
    for command in (
        ["segment", image, "--classes", "cat", *named],
        ["evaluate", "toyworld", "--limit", "1", *named, "--out", str(tmp_path / "o")],
        ["index", "append", str(folder), "captions.parquet"],
    ):
        shown = CliRunner().invoke(main, command)
        assert shown.exit_code == 1
        assert "add --trust-models, or name a preset of your own" in shown.stderr
    # The models of an index that is trusted are still those that it was built with.
    with pytest.raises(freeda.FreedaError, match="was built with another clip model"):
        freeda.load(folder, trust_models=True)


def test_a_preset_file_that_cannot_be_read_stops_only_what_needs_it(
    index_folder: Path, tiny_preset: Preset, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "home"
    shutil.copytree(home / "presets", other / "presets")
    (other / "presets" / "a-broken.toml").write_text("name = \n")
    monkeypatch.setenv("FREEDA_HOME", str(other))
    freeda.load(index_folder)
    shown = CliRunner().invoke(main, ["presets"])
    assert shown.exit_code == 0
    assert "tiny             Random weights." in shown.stdout
    assert "a-broken         cannot be read: preset file" in shown.stderr
    (other / "presets" / "tiny.toml").unlink()
    with pytest.raises(UntrustedIndexError, match="not looked at: preset file .*a-broken.toml"):
        freeda.load(index_folder)


def test_the_user_s_own_presets_are_found_by_name(tiny_preset: Preset, home: Path) -> None:
    assert freeda.load_preset("tiny").models == tiny_preset.models
    shown = CliRunner().invoke(main, ["presets"])
    assert "tiny             Random weights." in shown.stdout
