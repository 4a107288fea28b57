from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.presets.settings import Superpixels
from freeda.segmentation.regions import (
    area_weights,
    bilinear_weights,
    pool_mask,
    pool_regions,
    smooth_weights,
    superpixels,
)


def oracle(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Every pixel takes its token's feature; regions average their pixels, in float64."""
    depth, rows, columns = features.shape
    height, width = labels.shape
    sums = np.zeros((labels.max() + 1, depth))
    counts = np.zeros(labels.max() + 1)
    for y in range(height):
        for x in range(width):
            token = features[:, int((y + 0.5) * rows / height), int((x + 0.5) * columns / width)]
            sums[labels[y, x]] += token.astype(np.float64)
            counts[labels[y, x]] += 1
    return sums / counts[:, None]


@pytest.mark.parametrize("size", [(20, 33), (48, 32), (5, 7)])
def test_pooling_is_the_area_weighted_mean(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, size)
    labels.ravel()[:6] = np.arange(6)
    features = rng.normal(size=(5, 6, 4)).astype(np.float32)
    pooled = pool_regions(torch.from_numpy(features), labels)
    np.testing.assert_allclose(pooled.numpy(), oracle(features, labels), rtol=1e-5, atol=1e-6)


def test_a_region_of_one_pixel_has_its_token_s_feature() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[37, 11] = 1
    weights = area_weights(labels, (4, 4))
    assert weights[1].argmax() == (37 // 16) * 4 + 11 // 16
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "grid"), [((40, 64), (5, 7)), ((9, 9), (9, 9)), ((6, 5), (8, 9)), ((30, 8), (1, 3))]
)
def test_bilinear_weights_are_the_masks_resized_with_corners_aligned(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    labels = np.random.default_rng(1).integers(0, 9, size)
    labels.ravel()[:9] = np.arange(9)
    masks = torch.nn.functional.one_hot(torch.from_numpy(labels)).permute(2, 0, 1)[None].double()
    small = torch.nn.functional.interpolate(masks, grid, mode="bilinear", align_corners=True)[0].flatten(1)
    expected = small / small.sum(1, keepdim=True).clamp(min=1e-300)
    np.testing.assert_allclose(bilinear_weights(labels, grid), expected, atol=1e-6)


def test_a_region_between_the_samples_vanishes_bilinearly_but_not_by_area() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[10, 10] = 1
    assert bilinear_weights(labels, (4, 4))[1].sum() == 0
    assert area_weights(labels, (4, 4))[1].sum() == pytest.approx(1)


def test_pool_mask_takes_the_inside() -> None:
    features = torch.zeros(2, 2, 2)
    features[:, 1, 1] = torch.tensor([3.0, -1.0])
    mask = np.zeros((8, 8), bool)
    mask[4:, 4:] = True
    np.testing.assert_allclose(pool_mask(features, mask), [3.0, -1.0])


def test_pool_mask_of_everything() -> None:
    features = torch.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_allclose(pool_mask(features, np.ones((6, 6), bool)), [1.5, 5.5])


@pytest.mark.parametrize("algorithm", ["graph", "felzenszwalb"])
def test_superpixels_separate_two_colours_and_number_without_gaps(algorithm: str) -> None:
    image = np.zeros((40, 60, 3), np.float32)
    image[:, 30:] = (0.9, 0.2, 0.1)
    regions = superpixels(image, Superpixels(scale=100, sigma=0.5, min_size=20, algorithm=algorithm))
    left, right = np.unique(regions.labels[:, :27]), np.unique(regions.labels[:, 33:])
    assert len(left) == len(right) == 1
    assert left[0] != right[0]
    assert sorted(np.unique(regions.labels)) == list(range(len(regions)))


@pytest.mark.parametrize("algorithm", ["graph", "felzenszwalb"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_superpixels_of_a_few_pixels(algorithm: str, size: tuple[int, int]) -> None:
    regions = superpixels(np.ones((*size, 3), np.float32), Superpixels(algorithm=algorithm))
    assert regions.labels.shape == size
    assert len(regions) == 1


def test_smooth_weights_pool_bilinearly_upsampled_features() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (30, 44)).astype(np.int32)
    features = torch.from_numpy(rng.normal(size=(3, 4, 7)).astype(np.float32))
    upsampled = torch.nn.functional.interpolate(
        features[None], labels.shape, mode="bilinear", align_corners=False
    )[0].numpy()
    expected = np.stack([upsampled[:, labels == region].mean(1) for region in range(5)])
    found = smooth_weights(labels, (4, 7)) @ features.flatten(1).T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(smooth_weights(labels, (4, 7)).sum(1), 1, atol=1e-6)
