from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.models.backbone import load_backbone
from freeda.presets import load_preset
from freeda.toyworld.measure import region_features, single_thing_scenes
from freeda.toyworld.naming import PatchClassifier, share_named_right
from freeda.toyworld.scenes import LABELS
from freeda.toyworld.vocabulary import KINDS, THINGS


@pytest.fixture(scope="module")
def classifier() -> PatchClassifier:
    preset = load_preset("toy")
    size = preset.segmentation.dense_size
    backbone = load_backbone(preset.model_ids("backbone"), torch.device("cpu"))
    return PatchClassifier.of(backbone, size, *region_features(backbone, size, "validation", 200))


def test_single_things_are_one_of_every_kind() -> None:
    scenes = single_thing_scenes("evaluation", 1)
    assert sorted(item.scene.things[0].kind.name for item in scenes) == sorted(THINGS)
    for item in scenes:
        thing = item.scene.things[0].kind
        assert any(noun in item.caption for noun in (*thing.nouns, thing.plural))


def test_true_scenes_are_mostly_named_right(classifier: PatchClassifier) -> None:
    scenes = single_thing_scenes("evaluation", 1)
    images = torch.from_numpy(np.stack([item.scene.image for item in scenes])).permute(0, 3, 1, 2) / 255
    named = [LABELS[item.scene.things[0].kind.name] for item in scenes]
    found = classifier.things(images.float())
    assert share_named_right(found, named) > 0.6
    assert share_named_right(found, named[1:] + named[:1]) < 0.2


def test_a_picture_of_ground_alone_shows_no_thing(classifier: PatchClassifier) -> None:
    assert classifier.means.shape[0] == len(KINDS)
    grounds = classifier.means[len(THINGS) :]
    alone = PatchClassifier(classifier.backbone, classifier.size, np.vstack([-grounds[:1]] * 40 + [grounds]))
    assert alone.things(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))) == [
        None,
        None,
    ]
