"""The command line as a user meets it: real processes, the committed index and example images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from freeda.cli import main
from freeda.toyworld.make_examples import EXAMPLES

CLASSES = str(EXAMPLES / "classes.txt")


def freeda(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "freeda.cli", "--help"]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert " click\n" in loaded
    assert not any(f" {name}\n" in loaded for name in ("torch", "numpy", "faiss", "pyarrow", "dask"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("segment {image} --classes cat --index nowhere", "no index 'nowhere'"),
        ("segment {image} --classes cat --preset none", "unknown preset 'none'"),
        ("segment {image} --classes cat --recipe none", "unknown recipe 'none'"),
        ("evaluate toyworld --index nowhere", "no index 'nowhere'"),
        ("build-index captions.parquet --out {out} --factory none", "'none' is no FAISS factory for"),
        ("build-index captions.parquet --out {out} --tagger none", "tagger 'none' is unknown"),
        ("build-index captions.parquet --out {out} --preset none", "unknown preset 'none'"),
    ],
)
def test_unknown_names_are_told_before_the_model_libraries_are_imported(
    command: str, message: str, tmp_path: Path
) -> None:
    arguments = command.format(image=EXAMPLES / "scene-1.png", out=tmp_path / "out").split()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "freeda.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "dask", "open_clip"))


def test_an_index_is_verified_without_the_model_libraries(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "freeda.cli", "index", "verify", "toy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert " freeda.index.reader\n" in done.stderr
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "timm", "open_clip"))


def test_segmenting_with_freeda_imports_no_diffusers_and_no_dask(tmp_path: Path) -> None:
    script = (
        "import sys, freeda\n"
        f"freeda.load('toy').segment({str(EXAMPLES / 'scene-1.png')!r}, 'cat;grass')\n"
        "print([m for m in ('diffusers', 'dask', 'distributed', 'index_build') if m in sys.modules])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.strip() == "[]"


def test_segment_writes_labels_overlay_and_json(tmp_path: Path) -> None:
    result = freeda("segment", EXAMPLES / "scene-2.png", "--classes", CLASSES, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [Path(name).name for name in answer["files"]] == [
        "scene-2.labels.png",
        "scene-2.overlay.png",
        "scene-2.json",
    ]
    labels = np.asarray(Image.open(tmp_path / "scene-2.labels.png"))
    assert labels.shape == Image.open(EXAMPLES / "scene-2.png").size[::-1]
    assert sum(item["area"] for item in answer["segments"]) == labels.size


def test_images_of_every_kind_work(tmp_path: Path) -> None:
    source = Image.open(EXAMPLES / "scene-1.png").convert("RGB")
    sources = tmp_path / "in"
    sources.mkdir()
    source.convert("L").save(sources / "gray.png")
    source.convert("RGBA").save(sources / "alpha.png")
    Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257).save(sources / "deep.png")
    source.resize((1, 1)).save(sources / "pixel.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    source.resize((90, 60)).save(sources / "rotated.jpg", exif=exif)
    source.resize((12_000, 2_000)).save(sources / "huge.jpg")
    options = ("--classes", "hammer; sky", "--out", tmp_path / "out", "--format", "labels")
    result = freeda("segment", sources, *options)
    assert result.exit_code == 0, result.output
    sizes = {
        path.stem.removesuffix(".labels"): Image.open(path).size for path in (tmp_path / "out").glob("*.png")
    }
    assert sizes["huge"] == (12_000, 2_000)
    assert sizes["rotated"] == (60, 90)
    assert sizes["pixel"] == (1, 1)
    assert len(sizes) == 6


def test_one_bad_image_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    result = freeda("segment", bad, EXAMPLES / "scene-1.png", "--classes", CLASSES, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "no readable image" in result.stderr
    assert "1 of 2 images failed" in result.stderr
    assert (tmp_path / "out" / "scene-1.overlay.png").exists()


def test_equal_file_names_do_not_overwrite_one_another(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (20, 20), "red").save(tmp_path / folder / "x.png")
    result = freeda(
        "segment", tmp_path / "a", tmp_path / "b", "--classes", "cat;dog", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"x.json", "x-2.json"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["segment", "missing.png", "--classes", "cat"], 1, "no image file 'missing.png'"),
        (["segment", "x.png", "--classes", ""], 1, "no class names given"),
        (["segment", "x.png", "--classes", "cat;cat"], 1, "'cat' is given twice"),
        (["segment", "x.png", "--classes", "cat;;dog"], 1, "empty class name"),
        (["segment", "x.png", "--classes", "cat", "--index", "nowhere"], 1, "no index 'nowhere'; looked in"),
        (["segment", "x.png", "--classes", "cat", "--method", "magic"], 1, "unknown method 'magic'"),
        (["segment", "x.png", "--classes", "cat", "--set", "pamr"], 1, "'pamr' is not KEY=VALUE"),
        (
            ["segment", "x.png", "--classes", "cat", "--set", "magic=1"],
            1,
            "has no option or setting 'magic'; its settings are",
        ),
        (
            ["segment", "x.png", "--classes", "cat", "--set", "index=x"],
            2,
            "index is an option of its own; use --index",
        ),
        (["segment", "x.png", "--classes", "cat", "--set", "background=0.3"], 2, "--threshold SCORE"),
        (["segment", "x.png", "--classes", "cat", "--format", "gif"], 2, "expected any of labels"),
        (["segment", "x.png"], 2, "Missing option '--classes'"),
        (["segment", "--classes", "cat"], 2, "Missing argument"),
        (["build-index", "nowhere.parquet", "--out", "o"], 1, "no captions at 'nowhere.parquet'"),
        (["build-index", "nowhere.parquet", "--out", "o", "--preset", "sd9"], 1, "unknown preset 'sd9'"),
        (["build-index", "nowhere.parquet"], 2, "Missing option '--out'"),
        (["index", "info", "nowhere"], 1, "no index 'nowhere'"),
        (["presets", "--show", "sd9"], 1, "unknown preset 'sd9'"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = freeda(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    Image.new("RGB", (20, 20), "red").save(source)
    before = source.read_bytes()
    assert freeda("segment", source, "--classes", "cat;dog", "--out", tmp_path).exit_code == 2
    assert source.read_bytes() == before


def test_building_without_the_weights_is_one_line(tmp_path: Path) -> None:
    preset = tmp_path / "absent.toml"
    text = freeda("presets", "--show", "toy").output
    preset.write_text(text.replace("package:toyworld/weights/diffusion", str(tmp_path / "nothing")))
    command = [
        "build-index",
        str(EXAMPLES / "captions.parquet"),
        "--out",
        str(tmp_path / "out"),
        "--preset",
        str(preset),
    ]
    result = subprocess.run([sys.executable, "-m", "freeda.cli", *command], capture_output=True, text=True)
    assert result.returncode == 1
    assert "no diffusion model could be loaded" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = freeda("--debug", "index", "info", "nowhere")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="a file in the way of a folder")
def test_an_unwritable_output_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = freeda(
        "segment", EXAMPLES / "scene-1.png", "--classes", "cat;dog", "--out", tmp_path / "file" / "out"
    )
    assert result.exit_code == 1
    assert "is no folder" in result.stderr


def test_index_info_and_verify() -> None:
    info = freeda("index", "info", "toy")
    assert info.exit_code == 0
    assert "prototypes of" in info.output
    assert json.loads(freeda("index", "info", "toy", "--json").output)["preset"]["name"] == "toy"
    assert "as they were written" in freeda("index", "verify", "toy").output


def test_presets_are_listed() -> None:
    listed = freeda("presets").output
    for name in ("toy", "sd15-vitb", "sd21-vitl", "sd-turbo-vitb"):
        assert name in listed
    assert "[models]" in freeda("presets", "--show", "toy").output


def test_a_setting_is_changed_by_name(tmp_path: Path) -> None:
    def paths(*options: str) -> dict[str, int]:
        image = EXAMPLES / "scene-1.png"
        command = ["segment", image, "--classes", "hammer; sky", "--out", tmp_path, "--format", "npz"]
        assert freeda(*command, *options).exit_code == 0
        return json.loads((tmp_path / "scene-1.json").read_text())["paths"]

    merged = paths()["regions pooled"]
    apart = paths("--set", "merge_above=1")["regions pooled"]
    assert merged < apart
    assert paths("--set", "merge_above=1", "--set", "superpixels.min_size=500")["regions pooled"] < apart
