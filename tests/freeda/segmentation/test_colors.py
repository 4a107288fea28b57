from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from freeda.segmentation.colors import GRAY, PALETTE, class_colors

NAMES = [f"class {number}" for number in range(60)]
RED_BLIND = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
GREEN_BLIND = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
"""Machado, Oliveira and Fernandes 2009, in linear RGB."""


def lab(colors: np.ndarray, eyes: list[list[float]] | None = None) -> np.ndarray:
    values = colors.astype(float) / 255
    if eyes is not None:
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        seen = np.clip(linear @ np.array(eyes).T, 0, 1)
        values = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return rgb2lab(values[None])[0]


def least_distance(values: np.ndarray) -> float:
    distances = np.linalg.norm(values[:, None] - values, axis=-1)
    return float(distances[np.triu_indices(len(values), 1)].min())


@pytest.mark.parametrize("eyes", [None, RED_BLIND, GREEN_BLIND])
def test_the_palette_is_told_apart_by_all_eyes(eyes: list[list[float]] | None) -> None:
    palette = class_colors(NAMES[: len(PALETTE)])
    assert least_distance(lab(palette, eyes)) > 12  # CIELAB; 2 is just noticeable


def test_the_palette_stands_out_from_ground_and_road() -> None:
    palette = lab(class_colors(NAMES[: len(PALETTE)]))
    for ground in ((128, 128, 128), (121, 85, 61), (101, 67, 33), (150, 110, 75)):
        distances = np.linalg.norm(palette - lab(np.array([ground])), axis=1)
        assert distances.min() > 14


def test_a_colour_belongs_to_a_name_and_not_to_its_place() -> None:
    names = [*NAMES[:19], "background"]
    colors = dict(zip(names, class_colors(names).tolist(), strict=True))
    turned = names[::-1]
    assert dict(zip(turned, class_colors(turned).tolist(), strict=True)) == colors
    assert tuple(colors["background"]) == GRAY
    few = ["class 3", "class 7"]
    kept = [
        name for name, color in zip(few, class_colors(few).tolist(), strict=True) if color == colors[name]
    ]
    assert kept  # a name keeps its colour unless another took it


def test_of_many_classes_those_present_differ() -> None:
    colors = class_colors(NAMES)
    assert len(np.unique(colors, axis=0)) == len(NAMES)
    for seed in range(20):
        few = np.random.default_rng(seed).choice(len(NAMES), 6, replace=False)
        assert least_distance(lab(class_colors(NAMES, few.tolist())[few])) > 34
        present = np.random.default_rng(seed).choice(len(NAMES), len(PALETTE), replace=False)
        shown = class_colors(NAMES, present.tolist())[present]
        assert least_distance(lab(shown)) > 12


def test_there_is_a_colour_for_any_number_of_classes() -> None:
    assert class_colors([]).shape == (0, 3)
    assert class_colors([f"c{number}" for number in range(500)]).shape == (500, 3)
