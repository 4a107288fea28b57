from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

import freeda
from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.methods import METHODS
from freeda.methods.base import MethodSegmenter, Scores


class Grouping:
    """Notes how many images it is given at once; scores the first class best everywhere."""

    identity, background = {"method": "grouping"}, None

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.groups: list[int] = []

    def encode_classes(self, classes: tuple[ClassName, ...]) -> int:
        return len(classes)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def score(self, images: Sequence[np.ndarray], classes: int) -> list[Scores]:
        self.groups.append(len(images))
        return [Scores(torch.arange(classes, 0, -1.0)[:, None, None].expand(classes, 2, 2))] * len(images)


def test_images_are_grouped_until_they_have_enough_parts() -> None:
    method = Grouping(batch=3)
    segmenter = MethodSegmenter(method, parts=lambda image: image.shape[1] // 10)
    segmenter.set_classes("cat; dog")
    images = [np.zeros((8, width, 3), np.uint8) for width in (10, 10, 40, 10, 30, 10)]
    results = list(segmenter.stream(images))
    assert method.groups == [3, 2, 1]
    assert [result.labels.shape for result in results] == [image.shape[:2] for image in images]
    assert all((result.labels == 0).all() for result in results)


def test_a_method_that_cannot_explain_says_so() -> None:
    segmenter = MethodSegmenter(Grouping(batch=1))
    assert not segmenter.explains
    with pytest.raises(freeda.FreedaError, match="cannot be explained"):
        segmenter.segment(np.zeros((4, 4, 3), np.uint8), "cat").explain(1, 1)


def test_unknown_methods_and_settings_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown method 'magic'; expected one of freeda, diffsegmenter"):
        freeda.load(method="magic")
    with pytest.raises(
        ConfigError, match="method freeda has no option or setting 'timestep'; its settings are .*neighbors"
    ):
        freeda.load(timestep=3)
    with pytest.raises(ConfigError, match="method diffsegmenter has no option or setting 'index'"):
        freeda.load("toy", method="diffsegmenter")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_identity_names_it(method: str) -> None:
    assert freeda.load(method=method).identity["method"] == method


def test_options_that_are_none_are_left_out() -> None:
    assert freeda.load(recipe=None, neighbors=None, pamr=2).identity["pamr"] == 2
