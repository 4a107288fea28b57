"""What is usual for each class, against numpy, and what taking it away changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import freeda
from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import FreedaSegmenter
from freeda.methods.freeda.compactness import compactness
from freeda.presets import load_preset
from freeda.presets.recipes import paper_recipe
from freeda.presets.settings import Preset
from freeda.records import ClassPrototypes, Prototype
from freeda.segmentation.images import read_image
from freeda.toyworld.make_examples import EXAMPLES
from tests.freeda.material import random_prototypes, write_index

CLASSES = tuple(map(ClassName, ("dog", "gravel", "lamp", "bed")))
WIDTH = 6


@pytest.fixture
def prototypes() -> list[Prototype]:
    return random_prototypes(30, 8, WIDTH)


def written(folder: Path, preset: Preset, prototypes: list[Prototype]) -> PrototypeIndex:
    models = {"diffusion": "-", "clip": "-", "backbone": "-"}
    return PrototypeIndex.open(write_index(folder, prototypes, preset, models))


@pytest.fixture
def index(tmp_path: Path, tiny_preset: Preset, prototypes: list[Prototype]) -> PrototypeIndex:
    return written(tmp_path / "index", tiny_preset, prototypes)


def retrieved(*rows: list[int]) -> ClassPrototypes:
    most = max(map(len, rows))
    padded = np.array([[*line, *[-1] * (most - len(line))] for line in rows])
    return ClassPrototypes(np.zeros((len(rows), WIDTH)), padded, np.zeros(padded.shape))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors, dim=-1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_it_is_the_mean_cosine_of_each_prototype_and_the_mean_of_the_others(
    index: PrototypeIndex, prototypes: list[Prototype]
) -> None:
    rows = [[0, 3, 4, 11], [7, 8], [20, 21, 22]]
    expected = []
    for line in rows:
        vectors = [prototypes[row].vector.astype(np.float64) for row in line]
        pairs = [(one, [v for v in vectors if v is not one]) for one in vectors]
        expected.append(np.mean([cosine(one, np.mean(rest, 0)) for one, rest in pairs]))
    np.testing.assert_allclose(compactness(index, retrieved(*rows), unit), expected, atol=1e-6)


def test_it_is_computed_of_features_as_they_are_compared(index: PrototypeIndex) -> None:
    moved = compactness(index, retrieved([0, 1, 2]), lambda vectors: unit(vectors + 100))
    assert moved.item() > 0.99


def test_a_class_of_one_prototype_is_as_the_others_are(index: PrototypeIndex) -> None:
    found = compactness(index, retrieved([0, 1, 2], [5], [6, 7]), unit)
    assert found[1].item() == pytest.approx((found[0] + found[2]).item() / 2)
    assert (compactness(index, retrieved([4], [5]), unit) == 0).all()


def test_damaged_prototypes_are_left_out(
    tmp_path: Path, tiny_preset: Preset, prototypes: list[Prototype]
) -> None:
    prototypes[2].vector[1] = np.nan
    index = written(tmp_path / "index", tiny_preset, prototypes)
    found, without = (compactness(index, retrieved(rows), unit) for rows in ([0, 1, 2, 3], [0, 1, 3]))
    assert torch.equal(found, without)


def model(**settings: object) -> FreedaSegmenter:
    """Without the refinement, after which scores of a pixel are not its region's."""
    return freeda.load("toy", device="cpu", local_weight=1.0, pamr=0, **settings)


def test_scores_are_lowered_by_what_is_usual() -> None:
    plain, lowered = model(compactness_weight=0.0), model(compactness_weight=0.4)
    usual = lowered.method.encode_classes(CLASSES).usual
    assert isinstance(usual, torch.Tensor) and usual.std() > 0.02
    # The scene fits into one window: no mean of windows comes after the sigmoid.
    pixels = read_image(EXAMPLES / "scene-4.png")
    scores = [one.method.score_image(pixels, one.method.encode_classes(CLASSES)) for one in (plain, lowered)]
    cosines = [torch.logit(found.double()) for found in scores]
    np.testing.assert_allclose(cosines[1], cosines[0] - usual[:, None, None], atol=1e-5)


def test_photographs_of_a_class_leave_what_is_usual_as_it_is(tmp_path: Path) -> None:
    pixels = read_image(EXAMPLES / "scene-4.png")
    left = np.indices(pixels.shape[:2])[1] < 100
    image = freeda.MarkedImage("mine.png", pixels, (freeda.Mark("dog", left),))
    freeda.add_images("toy", [image], tmp_path / "both", device="cpu")
    # By cosine: a photograph's features change the whitening, and with it all similarities.
    settings = {"device": "cpu", "metric": "cosine", "compactness_weight": 0.4}
    models = [freeda.load(index, **settings) for index in ("toy", tmp_path / "both")]
    before, after = (one.method.encode_classes(CLASSES) for one in models)
    assert not torch.equal(before.prototypes[0], after.prototypes[0])
    assert len(after.retrieved.rows[0]) > len(before.retrieved.rows[0])
    np.testing.assert_array_equal(after.usual, before.usual)


def test_the_paper_has_none_and_a_weight_is_a_share() -> None:
    assert paper_recipe(load_preset("toy")).compactness_weight == 0
    with pytest.raises(ConfigError, match="compactness_weight is 1.5; expected between 0 and 1"):
        freeda.load("toy", compactness_weight=1.5)
