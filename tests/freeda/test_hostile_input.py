"""What users and strangers may hand in: each gets one clear line, and nothing else is lost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import freeda
from freeda.class_names import parse_classes
from freeda.cli import main
from freeda.errors import ClassNamesError, ImageError, OutputError, printable
from freeda.presets.settings import Preset
from tests.conftest import WIDTH
from tests.freeda.material import random_prototypes, write_index
from tests.freeda.methods.contract import picture


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(picture(56, 60)).save(folder / f"{name}.png")
    return folder


def test_passwords_in_urls_are_not_shown() -> None:
    error = OutputError("cannot write to 's3://KEY:SECRET@bucket/x' or http://user:pass@host:80/")
    assert str(error) == "cannot write to 's3://***@bucket/x' or http://***@host:80/"
    shown = run("build-index", "s3://KEY:SECRET@bucket/captions.parquet", "--out", "o")
    assert shown.exit_code == 1
    assert "SECRET" not in shown.output


def test_the_card_and_info_show_words_as_words(tiny_preset: Preset, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> [x](http://e.org) | `a`"
    items = [replace(item, noun=evil) for item in random_prototypes(5, WIDTH, WIDTH)]
    items[0] = replace(items[0], noun="\x1b[31mred\x07")
    prints = {"diffusion": "-", "clip": "-", "backbone": "-"}
    preset = replace(
        tiny_preset,
        name="<scr`ipt>p</script>",
        licenses={"clip": "[y](javascript:alert)", "diffusion": "<b>"},
    )
    folder = write_index(tmp_path / "index", items, preset, prints)
    card = (folder / "README.md").read_text()
    assert "<script>" not in card.replace("`<script>p</script>`", "") and "<b>" not in card
    assert "[y](java" not in card
    assert r"\[x\](http" in card
    assert "\x1b" not in card
    shown = run("index", "info", str(folder))
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output
    assert printable("a\x1b[0m\nb") == "a\N{REPLACEMENT CHARACTER}[0m\N{REPLACEMENT CHARACTER}b"


def test_results_beside_the_images_are_refused(index_folder: Path, images: Path) -> None:
    shown = run(
        *("segment", str(images), "--classes", "cat", "--index", str(index_folder), "--out", str(images))
    )
    assert shown.exit_code == 2
    assert "holds the images; name another folder" in shown.stderr
    assert sorted(path.name for path in images.iterdir()) == ["a.png", "b.png", "c.png"]


def test_one_image_that_fails_costs_no_other(
    index_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(56, 60)).save(images / f"{'n' * 246}.png")
    from freeda.methods.freeda.method import FreedaMethod

    original, special = FreedaMethod.prepare, picture(56, 60)
    special[0, 0] = (1, 2, 3)
    Image.fromarray(special).save(images / "b.png")

    def prepare(self, pixels: np.ndarray):
        if tuple(pixels[0, 0]) == (1, 2, 3):
            raise MemoryError
        return original(self, pixels)

    monkeypatch.setattr(FreedaMethod, "prepare", prepare)
    out = tmp_path / "out"
    shown = run(
        *("segment", str(images), "--classes", "cat; dog", "--index", str(index_folder), "--out", str(out))
    )
    assert shown.exit_code == 1
    assert "2 of 4 images failed" in shown.stderr
    assert "b.png' failed with MemoryError" in shown.stderr
    assert "File name too long" in shown.stderr
    assert {path.name for path in out.glob("*.labels.png")} == {"a.labels.png", "c.labels.png"}


def test_an_image_that_fails_in_a_group_is_told_from_the_others(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = freeda.load(index_folder)
    segmenter.set_classes("cat; dog")
    segmenter.method.batch = 8
    score = segmenter.method.score

    def failing(images, classes):
        if any(item.windowed.pixels[0, 0, 0] == 77 for item in images):
            raise RuntimeError("no such kernel")
        return score(images, classes)

    monkeypatch.setattr(segmenter.method, "score", failing)
    bad = picture(56, 60)
    bad[0, 0] = 77
    failed = []
    given = [picture(56, 60), bad, picture(60, 56)]
    found = list(segmenter.stream(given, on_error=lambda image, error: failed.append((image, error))))
    assert [result.labels.shape for result in found] == [(56, 60), (60, 56)]
    assert failed[0][0] is bad
    assert isinstance(failed[0][1], ImageError)
    assert "an image failed with RuntimeError: no such kernel" in str(failed[0][1])
    with pytest.raises(RuntimeError):
        list(segmenter.stream(given))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("classes_1.csv", "'classes_1.csv' is no .txt file"),
        ("caf\u00e9; cafe\u0301", "'café' is given twice"),
        ("x" * 100_000, f"class name '{'x' * 60}...' has 100,000 characters; 500 at most"),
        (
            [f"class {number}" for number in range(65_535)],
            "65,535 classes; label files of 16 bits hold 65,534",
        ),
    ],
)
def test_class_lists_that_cannot_be_meant(classes: str | list[str], message: str) -> None:
    with pytest.raises(ClassNamesError) as caught:
        parse_classes(classes)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_unknown_formats_are_refused_from_python_too(index_folder: Path, tmp_path: Path) -> None:
    result = freeda.load(index_folder).segment(picture(56, 60), "cat")
    with pytest.raises(freeda.FreedaError, match="unknown format 'gif'; expected any of labels"):
        result.save(tmp_path, formats=("labels", "gif"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build-index", "captions.parquet", "--out", ""], "it is empty; name a folder"),
        (["build-index", "captions.parquet", "--out", "file/index"], "'{here}/file' is no folder"),
        (["index", "merge", "toy", "--out", "file/index"], "'{here}/file' is no folder"),
        (["index", "merge", "toy", "--out", ""], "it is empty; name a folder"),
        (["segment", "x.png", "--classes", "cat", "--out", "file"], "'{here}/file' is no folder"),
        (["build-index", "c.parquet", "--out", "i", "--tagger", "nltk"], "tagger 'nltk' is unknown"),
        (["build-index", "c.parquet", "--out", "i", "--preset", "nope"], "unknown preset 'nope'"),
        (["captions", "select", "c.parquet", "--budget", "3", "--out", "file"], "'file' exists already"),
        (
            ["captions", "select", "c.parquet", "--budget", "3", "--out", "o", "--tagger", "spacy"],
            "tagger 'spacy' is unknown",
        ),
    ],
)
def test_what_needs_no_model_is_told_before_anything_is_imported(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code = "import sys; from freeda.cli import main; main(sys.argv[1:], standalone_mode=True)"
    watched = f"import atexit\natexit.register(lambda: print('torch' in sys.modules))\n{code}"
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys\n{watched}", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert shown.returncode in (1, 2)
    assert message.format(here=tmp_path.resolve()) in shown.stderr
    assert shown.stdout.strip() == "False"


def test_pictures_of_many_pixels_are_refused_unless_they_are_allowed(
    index_folder: Path, images: Path, tmp_path: Path
) -> None:
    Image.fromarray(picture(70, 80)).save(images / "b.png")
    command = ["segment", str(images), "--classes", "cat; dog", "--index", str(index_folder)]
    told = run(*command, "--out", str(tmp_path / "few"), "--max-pixels", "5000")
    assert told.exit_code == 1
    assert "b.png' has 80 x 70 pixels, more than 5,000; scale it down, or allow more (--max" in told.stderr
    assert sorted(path.name for path in (tmp_path / "few").glob("*.labels.png")) == [
        "a.labels.png",
        "c.labels.png",
    ]
    assert run(*command, "--out", str(tmp_path / "all"), "--max-pixels", "5600").exit_code == 0


def test_an_evaluation_never_writes_into_a_stranger_s_folder(tmp_path: Path) -> None:
    told = run("evaluate", "toyworld", "--limit", "1", "--out", "")
    assert told.exit_code == 2
    assert "it is empty; name a folder" in told.stderr
    (tmp_path / "images.jsonl").write_text("mine")
    told = run("evaluate", "toyworld", "--limit", "1", "--out", str(tmp_path))
    assert told.exit_code == 1
    assert "is no run of `freeda evaluate` and holds other files (images.jsonl)" in told.stderr
    assert (tmp_path / "images.jsonl").read_text() == "mine"


def test_results_that_cannot_be_drawn_or_explained_cost_no_other(
    index_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from freeda.segmentation import exports

    original, drawn = exports.draw_overlay, []

    def draw(result: freeda.Segmentation) -> Image.Image:
        drawn.append(result)
        if len(drawn) == 2:
            raise MemoryError("no room")
        return original(result)

    monkeypatch.setattr(exports, "draw_overlay", draw)
    command = ["segment", str(images), "--classes", "cat; dog", "--index", str(index_folder)]
    told = run(*command, "--out", str(tmp_path / "out"))
    assert told.exit_code == 1
    assert "b.png" in told.stderr and "no room" in told.stderr
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 2
    monkeypatch.setattr(exports, "draw_overlay", original)
    monkeypatch.setattr(freeda.Segmentation, "explain", lambda self, x, y: 1 / 0)
    told = run(*command, "--out", str(tmp_path / "why"), "--explain", "1,1")
    assert told.exit_code == 1
    assert told.stderr.count("division by zero") == 3
    assert len(list((tmp_path / "why").glob("*.overlay.png"))) == 3


def test_passwords_with_odd_signs_are_not_shown() -> None:
    for url in ("http://u:p@ss@h/x", "s3://KEY:SEC/RET@bucket/x"):
        shown = str(OutputError(f"cannot write to '{url}'"))
        assert "ss@" not in shown and "RET" not in shown and "***@" in shown
