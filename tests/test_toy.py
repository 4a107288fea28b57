"""The embedded default, end to end: what it generates, where it looks, what it segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import freeda
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.presets import load_preset
from freeda.segmentation.images import read_image
from freeda.toyworld.make_examples import EXAMPLES, balanced_captions, class_list, example_images
from freeda.toyworld.measure import attention_iou, described_scenes
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS


def test_the_committed_examples_are_the_ones_the_code_makes() -> None:
    rows = pq.read_table(EXAMPLES / "captions.parquet").to_pylist()
    assert len(rows) >= 64
    assert rows == balanced_captions(len(rows))
    assert (EXAMPLES / "classes.txt").read_text() == class_list()
    for stem, scene in example_images().items():
        np.testing.assert_array_equal(read_image(EXAMPLES / f"{stem}.png"), scene.image)


def test_weights_and_index_are_small_enough_to_travel() -> None:
    package = Path(freeda.__file__).parent
    weights = [path for path in (package / "toyworld" / "weights").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in weights) <= 80e6
    assert max(path.stat().st_size for path in weights) <= 16e6
    assert all(path.suffix in {".json", ".md", ".safetensors", ".txt"} for path in weights)


def test_the_committed_index_has_the_preset_s_own_numbers() -> None:
    index = freeda.PrototypeIndex.open("toy", verify=True)
    assert index.preset == load_preset("toy")
    assert sum(index.manifest.sizes.values()) < 10e6


def test_attention_points_at_what_nouns_name() -> None:
    iou = attention_iou(load_preset("toy"), described_scenes("evaluation", 25), 300)
    assert iou["stuff"] > 0.45
    assert iou["things"] > 0.48


@pytest.fixture(scope="module")
def model() -> freeda.Segmenter:
    segmenter = freeda.load("toy")
    segmenter.set_classes([",".join(kind.nouns) for kind in KINDS])
    return segmenter


def test_masks_are_measurably_right(model: freeda.Segmenter) -> None:
    matrix = ConfusionMatrix(len(KINDS))
    for number in range(40):
        scene = draw_scene(scene_rng("evaluation", number), (128, 128) if number % 2 else (110, 160))
        matrix.add(scene.labels, model.segment(scene.image).labels)
    assert matrix.pixel_accuracy() > 0.96
    assert matrix.mean_iou() > 0.78  # 50 classes: chance is below 0.01


def test_a_class_that_is_not_there_takes_little(model: freeda.Segmenter) -> None:
    scene = draw_scene(scene_rng("example", 100_000), 128)
    names = [kind.name for kind in scene.kinds]
    result = freeda.load("toy").segment(scene.image, [*names, "wardrobe"])
    assert result.mask("wardrobe").mean() < 0.05
