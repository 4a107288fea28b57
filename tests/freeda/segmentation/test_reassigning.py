"""Superpixels that are assigned anew by their colours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

import freeda
from freeda.records import Regions
from freeda.segmentation.merging import merge_alike
from freeda.segmentation.reassigning import mean_colors, reassign
from freeda.toyworld.scenes import Scene, draw_scene, scene_rng
from tests.freeda.segmentation.test_merging import mosaic, same_partition


def columns(*numbers: int) -> Regions:
    """A column of pixels per number."""
    return Regions(np.tile(np.array(numbers, np.int32), (4, 1)))


def test_what_a_token_holds_beside_a_thing_goes_back_to_the_ground() -> None:
    """The third superpixel is ground, and its token mostly the thing's."""
    superpixels, merged = columns(0, 1, 2, 3, 4), columns(0, 0, 0, 1, 1)
    features = np.array([[1, 0], [1, 0], [0.8, 0.6], [0, 1], [0, 1]], np.float32)
    red, gray = (0.5, 0.6, 0.5), (0.6, 0.0, 0.0)
    colors = np.array([red, red, gray, gray, gray])
    assert same_partition(reassign(superpixels, merged, features, colors, 0).labels, merged.labels)
    found = reassign(superpixels, merged, features, colors, 0.2)
    assert same_partition(found.labels, columns(0, 0, 1, 1, 1).labels)


def test_a_superpixel_never_goes_to_a_region_apart_from_it() -> None:
    superpixels, merged = columns(*range(8)), columns(0, 0, 1, 1, 1, 1, 2, 2)
    features = np.array([[1, 0], [1, 0], *[[0, 1]] * 3, [0.1, 1], [-1, 0], [-1, 0]], np.float32)
    colors = np.array([(value, 0.0, 0.0) for value in (0.5, 0.5, 0.9, 0.9, 0.9, 0.5, 0.1, 0.1)])
    found = reassign(superpixels, merged, features, colors, 0.2).labels
    assert same_partition(found, merged.labels)  # though the sixth has the first one's colour


def by_hand(
    superpixels: np.ndarray, owner: list[int], features: np.ndarray, colors: np.ndarray, weight: float
) -> list[int]:
    """One superpixel after the other, as the module's text says."""
    count, areas = len(features), np.bincount(superpixels.ravel())
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = set()
    for one, other in ((superpixels[:-1], superpixels[1:]), (superpixels[:, :-1], superpixels[:, 1:])):
        pairs |= {(int(a), int(b)) for a, b in zip(one.ravel(), other.ravel(), strict=True)}
    beside = {
        number: {b for a, b in pairs if a == number} | {a for a, b in pairs if b == number}
        for number in range(count)
    }
    for _ in range(3):
        regions = sorted(set(owner))
        means, cores = {}, {}
        for region in regions:
            members = [number for number in range(count) if owner[number] == region]
            mean = sum(areas[number] * units[number] for number in members)
            means[region] = mean / np.linalg.norm(mean)
            ranked = sorted(members, key=lambda number: -float(units[number] @ means[region]))
            core, area = [], 0
            while area < 0.7 * areas[members].sum():
                core.append(ranked[len(core)])
                area += areas[core[-1]]
            cores[region] = core
        fresh = []
        for number in range(count):
            scores = {}
            for region in {owner[number], *(owner[other] for other in beside[number])}:
                alike = sum(
                    areas[other] * math.exp(-((colors[number] - colors[other]) ** 2).sum() / (2 * 0.1**2))
                    for other in cores[region]
                    if other != number
                )
                share = alike / areas[cores[region]].sum()
                scores[region] = float(units[number] @ means[region]) + weight * math.log(share + 0.01)
            fresh.append(max(scores, key=lambda region: scores[region]))
        if fresh == owner:
            break
        owner = fresh
    return owner


@pytest.mark.parametrize("seed", range(6))
def test_the_same_regions_as_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    superpixels = mosaic(rng)
    count = len(superpixels)
    features = rng.normal(size=(count, 4)).astype(np.float32) + 0.5
    colors = rng.uniform(0, 0.4, (count, 3))
    merged = merge_alike(superpixels, features, 0.6)
    owner = merged.labels.ravel()[np.unique(superpixels.labels, return_index=True)[1]].tolist()
    expected = np.array(by_hand(superpixels.labels, owner, features.astype(float), colors, 0.3))
    found = reassign(superpixels, merged, features, colors, 0.3)
    assert same_partition(found.labels, expected[superpixels.labels])
    assert not same_partition(found.labels, merged.labels)


def test_colors_are_scikit_image_s() -> None:
    rng = np.random.default_rng(0)
    window = rng.uniform(size=(6, 8, 3)).astype(np.float32)
    labels = rng.integers(0, 3, (6, 8))
    lab = rgb2lab(window) / 100
    expected = [lab[labels == number].mean(0) for number in range(3)]
    np.testing.assert_allclose(mean_colors(window, labels), expected, atol=2e-3)


def test_features_that_are_none_do_no_harm() -> None:
    superpixels, merged = columns(0, 1, 2), columns(0, 0, 1)
    features = np.array([[np.nan, 1], [0, 0], [1, 0]], np.float32)
    found = reassign(superpixels, merged, features, np.zeros((3, 3)), 0.2)
    assert found.labels.shape == (4, 3) and found.labels.min() == 0


def purity(scene: Scene, labels: np.ndarray) -> tuple[int, int]:
    """Pixels of things in regions that are nine tenths one instance's, and all of things."""
    pure, count = 0, 0
    for number in range(len(scene.stuff), len(scene.kinds)):
        regions, pixels = np.unique(labels[scene.instances == number], return_counts=True)
        shares = pixels / np.bincount(labels.ravel())[regions]
        pure, count = pure + int(pixels[shares > 0.9].sum()), count + int(pixels.sum())
    return pure, count


def test_regions_of_things_become_purer() -> None:
    shares = []
    for weight in (0.0, 0.2):
        model = freeda.load("toy", color_weight=weight, device="cpu")
        found = []
        for number in range(12):
            scene = draw_scene(scene_rng("validation", number), 128)
            with torch.inference_mode():
                (image,) = model.method.encode_images([model.method.prepare(scene.image)])
            found.append(purity(scene, image.windows[0].regions.labels))
        pure, count = np.sum(found, 0)
        shares.append(pure / count)
    assert shares[1] > shares[0] + 0.1
