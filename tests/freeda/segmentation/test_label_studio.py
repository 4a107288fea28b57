from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from freeda.cli import main
from freeda.segmentation.label_studio import label_studio_task, packed_runs
from freeda.segmentation.result import Segmentation
from freeda.toyworld.make_examples import EXAMPLES


def unpacked(packed: list[int]) -> np.ndarray:
    """The values of an array in the format of thi.ng/rle-pack, read as its description says."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run = take(1)
        length = take(widths[take(2)]) + 1
        values += [take(word)] * length if is_run else [take(word) for _ in range(length)]
    assert len(bits) - place < 8  # nothing but padding follows
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 60), (300, 200)])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_masks_are_packed_as_rgba(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    rgba = unpacked(packed_runs(mask)).reshape(*shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(mask[..., None], 4, -1) * 255)


@pytest.mark.parametrize("instances", [False, True])
def test_a_task_holds_every_segment(patchwork: Segmentation, instances: bool) -> None:
    task = label_studio_task(patchwork, "a.png", instances=instances)
    assert task["data"] == {"image": "a.png"}
    (prediction,) = task["predictions"]
    found = np.full(patchwork.labels.shape, 255)
    for region in prediction["result"]:
        assert (region["original_width"], region["original_height"]) == (36, 30)
        mask = unpacked(region["value"]["rle"]).reshape(30, 36, 4)[..., 3] > 0
        (name,) = region["value"]["brushlabels"]
        assert (found[mask] == 255).all()
        found[mask] = patchwork.classes.index(name)
        assert region["score"] == pytest.approx(patchwork.scores[mask].mean(), abs=1e-5)
    np.testing.assert_array_equal(found, patchwork.labels)
    decided = patchwork.labels != 255
    assert prediction["score"] == pytest.approx(patchwork.scores[decided].mean(), abs=1e-4)
    assert len(prediction["result"]) > 3 if instances else len(prediction["result"]) == 3


def test_the_command_writes_a_list_of_one_task(tmp_path: Path) -> None:
    command = ["segment", str(EXAMPLES / "scene-1.png"), "--classes", "cat; grass; sand", "--format"]
    done = CliRunner().invoke(main, [*command, "labelstudio,labels", "--instances", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (task,) = json.loads((tmp_path / "scene-1.labelstudio.json").read_text())
    labels = np.asarray(Image.open(tmp_path / "scene-1.labels.png"))
    area = sum(int((unpacked(r["value"]["rle"]) > 0).sum()) for r in task["predictions"][0]["result"]) // 4
    assert area == (labels != 255).sum()
