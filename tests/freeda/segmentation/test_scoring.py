from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.segmentation.scoring import fuse_scores, label_map, local_scores, paint_regions


def test_local_and_fused_scores_follow_the_formulas() -> None:
    rng = np.random.default_rng(0)
    regions, prototypes = rng.normal(size=(7, 5)), rng.normal(size=(3, 5))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    image = rng.uniform(-1, 1, 3)
    cosine = regions @ prototypes.T / np.linalg.norm(regions, axis=1, keepdims=True)
    expected = 0.8 / (1 + np.exp(-cosine)) + 0.2 * image
    local = local_scores(torch.from_numpy(regions), torch.from_numpy(prototypes))
    np.testing.assert_allclose(fuse_scores(local, torch.from_numpy(image), 0.8), expected, rtol=1e-10)


def test_every_pixel_takes_its_region_s_scores() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.7, 0.2]])
    labels = np.array([[0, 1], [1, 1]])
    np.testing.assert_allclose(paint_regions(scores, labels)[0], [[0.1, 0.7], [0.7, 0.7]])


@pytest.mark.parametrize("size", [(7, 11), (12, 40), (3, 2)])
def test_label_map_equals_whole_image_upsampling(size: tuple[int, int], monkeypatch) -> None:
    monkeypatch.setattr("freeda.segmentation.scoring._BAND_BYTES", 4 * 4 * size[1] * 2)
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    upsampled = torch.nn.functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    labels, best = label_map(scores, size, 255)
    np.testing.assert_array_equal(labels, upsampled.argmax(0))
    np.testing.assert_allclose(best, upsampled.max(0).values, rtol=1e-5)


def test_pixels_without_a_finite_score_stay_undecided() -> None:
    scores = torch.tensor([[[0.1, float("nan")]], [[0.2, 0.5]]])
    labels, _ = label_map(scores, (1, 2), 255)
    assert labels.tolist() == [[1, 255]]
