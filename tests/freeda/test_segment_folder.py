"""`freeda segment` over folders: which images, where their results go, and what a second run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from freeda.cli import main
from freeda.segmentation.result import Segmentation
from freeda.toyworld.scenes import draw_scene, scene_rng

CLASSES = ("--classes", "cat; grass; sand; sky")


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments), *CLASSES])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five scenes in three folders, two of one name."""
    for number, name in enumerate(("a", "b", "one/a", "one/b", "one/two/a")):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(scene_rng("example", number), 64).image).save(path)
    return tmp_path / "images"


def results(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*.labels.png")}


def test_folders_within_folders_keep_their_places(folder: Path, tmp_path: Path) -> None:
    plain = segment(folder, "--out", tmp_path / "plain")
    assert plain.exit_code == 0
    assert results(tmp_path / "plain") == {"a.labels.png", "b.labels.png"}
    done = segment(folder, "--recursive", "--out", tmp_path / "deep")
    assert done.exit_code == 0, done.output
    assert results(tmp_path / "deep") == {
        *("a.labels.png", "b.labels.png"),
        *("one/a.labels.png", "one/b.labels.png", "one/two/a.labels.png"),
    }
    both = segment(folder, folder / "one", "--out", tmp_path / "both")
    assert both.exit_code == 0
    assert results(tmp_path / "both") == {f"{name}.labels.png" for name in ("a", "b", "a-2", "b-2")}


def test_results_inside_the_images_folder_are_not_segmented(folder: Path) -> None:
    for _ in range(2):
        done = segment(folder, "--recursive", "--overwrite", "--out", folder / "results")
        assert done.exit_code == 0
    assert len(results(folder / "results")) == 5
    told = segment(folder, "--out", folder)
    assert told.exit_code == 2
    assert "holds the images; name another folder" in told.output


def test_an_empty_folder_says_how_to_look_deeper(folder: Path, tmp_path: Path) -> None:
    (folder / "one" / "two" / "a.png").rename(tmp_path / "images" / "one" / "two" / "a.txt")
    told = segment(folder / "one" / "two", "--out", tmp_path / "out")
    assert told.exit_code == 1
    assert "holds no images (--recursive looks into its folders)" in told.output


def test_the_summary_adds_up_what_was_found(folder: Path, tmp_path: Path) -> None:
    done = segment(folder, "--recursive", "--out", tmp_path / "out")
    lines = done.stdout.splitlines()
    start = lines.index("5 images, by share of all pixels decided:")
    told = {line.split()[1]: float(line.split()[0].rstrip("%")) for line in lines[start + 1 :]}
    labels = np.concatenate(
        [np.asarray(Image.open(path)).ravel() for path in (tmp_path / "out").rglob("*.labels.png")]
    )
    for number, name in enumerate(("cat", "grass", "sand", "sky")):
        assert told.get(name, 0.0) == pytest.approx(100 * np.mean(labels == number), abs=0.06)
    assert list(told.values()) == sorted(told.values(), reverse=True)


def test_finished_images_are_skipped_while_nothing_has_changed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = segment(folder, "--out", out)
    assert "->" in first.stdout and first.exit_code == 0
    again = segment(folder, "--out", out)
    assert again.stderr == "2 of 2 images were finished already\n"
    assert again.stdout == first.stdout[first.stdout.index("2 images, by share") :]
    assert again.exit_code == 0
    Image.fromarray(draw_scene(scene_rng("example", 9), 64).image).save(folder / "b.png")
    changed = segment(folder, "--out", out)
    assert changed.stderr == "1 of 2 images were finished already\n"
    (out / "a.overlay.png").unlink()
    missing = segment(folder, "--out", out)
    assert missing.stderr == "1 of 2 images were finished already\n"
    assert (out / "a.overlay.png").exists()
    for other in (["--set", "pamr=0"], ["--format", "labels"], ["--background"], ["--explain", "3,3"]):
        assert "finished already" not in segment(folder, "--out", out, *other).stderr, other
    renewed = segment(folder, "--out", out, "--overwrite")
    assert renewed.stderr == "" and renewed.stdout.count("->") == 2


def test_a_failed_image_is_tried_again(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_text("no image")
    first = segment(folder, "--out", tmp_path / "out")
    assert first.exit_code == 1
    again = segment(folder, "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert "1 of 2 images were finished already" in again.stderr
    assert "no readable image" in again.stderr


_KILLED = """
import os, signal, sys
from freeda.cli import main
from freeda.segmentation.result import Segmentation

save, saved = Segmentation.save, []

def killed(self, *arguments, **options):
    if len(saved) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(self)
    return save(self, *arguments, **options)

Segmentation.save = killed
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        Image.fromarray(draw_scene(scene_rng("example", number), 128).image).save(images / f"{number:02}.png")
    arguments = ["segment", str(images), *CLASSES, "--device", "cpu", "--out", str(tmp_path / "out")]
    process = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
    assert process.returncode == -signal.SIGKILL
    finished = tmp_path / "out" / ".finished.jsonl"
    assert finished.read_text().count('"made_of"') == 5
    with finished.open("a") as file:  # as a line that was being written when the power failed
        file.write('\n{"name": "11", "made_')
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stderr
    assert "5 of 12 images were finished already" in done.stderr
    whole = segment(images, "--device", "cpu", "--out", tmp_path / "whole")
    assert whole.exit_code == 0
    for path in sorted((tmp_path / "whole").glob("*.json")):
        other = tmp_path / "out" / path.name
        assert json.loads(other.read_text())["segments"] == json.loads(path.read_text())["segments"]
    assert len(list((tmp_path / "out").glob("*.labels.png"))) == 12


def test_scripts_are_told_of_finished_images_too(folder: Path, tmp_path: Path) -> None:
    first = segment(folder, "--json", "--out", tmp_path / "out")
    again = segment(folder, "--json", "--out", tmp_path / "out")
    assert again.stdout == first.stdout
    assert [json.loads(line)["image"] for line in again.stdout.splitlines()] == [
        str(folder / "a.png"),
        str(folder / "b.png"),
    ]


def test_results_may_lie_above_the_images(folder: Path, tmp_path: Path) -> None:
    done = segment(folder / "one", "--out", folder)
    assert done.exit_code == 0, done.output
    assert results(folder) == {"a.labels.png", "b.labels.png"}


def test_an_image_that_changes_while_it_is_segmented_is_segmented_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Segmentation.save

    def replaced(self: Segmentation, *arguments: object, **options: object) -> list[Path]:
        Image.fromarray(draw_scene(scene_rng("example", 9), 64).image).save(folder / "one" / "b.png")
        return save(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Segmentation, "save", replaced)
        segment(folder / "one", "--out", tmp_path / "out")
    again = segment(folder / "one", "--out", tmp_path / "out")
    assert again.stderr == "1 of 2 images were finished already\n"


def test_an_image_that_is_gone_is_not_finished(folder: Path, tmp_path: Path) -> None:
    segment(folder / "a.png", folder / "b.png", "--out", tmp_path / "out")
    (folder / "b.png").unlink()
    again = segment(folder / "a.png", folder / "b.png", "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert "1 of 2 images were finished already" in again.stderr
    assert "no image file" in again.stderr


def test_a_result_that_cannot_be_saved_leaves_the_others_their_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image twice, of which the first result fails."""
    save, saved = Segmentation.save, []

    def failing(self: Segmentation, *arguments: object, **options: object) -> list[Path]:
        saved.append(self.file_name)
        if len(saved) == 1:
            raise OSError("no space left")
        return save(self, *arguments, **options)

    monkeypatch.setattr(Segmentation, "save", failing)
    done = segment(folder / "a.png", folder / "a.png", folder / "b.png", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "1 of 3 images failed" in done.stderr
    assert saved == ["a.png", "a.png", "b.png"]
    assert results(tmp_path / "out") == {"a-2.labels.png", "b.labels.png"}


def test_threads_bound_every_library(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: the numbers hold for the whole process."""
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from freeda.cli import main\n"
        "done = CliRunner().invoke(main, sys.argv[1:])\n"
        "import cv2, faiss, torch\n"
        "print(done.exit_code, torch.get_num_threads(), cv2.getNumThreads(), faiss.omp_get_max_threads())\n"
    )
    arguments = ["segment", str(folder / "a.png"), *CLASSES, "--threads", "1", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", code, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["0", "1", "1", "1"], done.stderr


def test_coco_files_name_images_by_their_path(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = segment(folder, "--recursive", "--format", "coco", "--image-prefix", "https://a.b/", "--out", out)
    assert done.exit_code == 0, done.output
    names = {json.loads(path.read_text())["images"][0]["file_name"] for path in out.rglob("*.coco.json")}
    assert names == {f"https://a.b/{name}.png" for name in ("a", "b", "one/a", "one/b", "one/two/a")}


def test_instances_without_segments_are_refused(folder: Path, tmp_path: Path) -> None:
    told = segment(folder, "--instances", "--out", tmp_path / "out")
    assert told.exit_code == 2
    assert "it is for segments; add a --format of coco, panoptic, labelstudio" in told.output
