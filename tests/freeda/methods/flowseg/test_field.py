"""The reshaped field against its definition, and centroids against known gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.methods.flowseg.centroids import place_centroids, project_texts, smallest_gap
from freeda.methods.flowseg.field import (
    class_log_probabilities,
    distance_term,
    endpoint,
    squared_distances,
)


@pytest.mark.parametrize(("epsilon", "temperature"), [(1e-3, 1.0), (1e-2, 0.5)])
def test_the_reshaped_target_s_gradient_is_flow_matching_with_a_cross_entropy(
    epsilon: float, temperature: float
) -> None:
    """|v_theta - (v - g)|^2 and |v_theta - v|^2 - 2 / (1 - t) log p_y have the same gradient."""
    generator = torch.Generator().manual_seed(0)
    x_t, true, moved, centroids = (
        torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (40, 40, 40, 7)
    )
    labels, time = torch.arange(40) % 7, 0.3
    moved.requires_grad_()
    ends = endpoint(x_t, moved, time)
    g, _ = distance_term(ends, labels, centroids, epsilon, temperature)
    (by_target,) = torch.autograd.grad((moved - (true - g)).square().sum(), moved)
    distances = squared_distances(endpoint(x_t, moved, time), centroids)
    own = class_log_probabilities(distances, epsilon, temperature)[torch.arange(40), labels]
    whole = (moved - true).square().sum() - 2 / (1 - time) * own.sum()
    (by_entropy,) = torch.autograd.grad(whole, moved)
    torch.testing.assert_close(by_target, by_entropy, rtol=1e-10, atol=1e-10)
    assert not g.requires_grad and (by_target - 2 * (moved - true)).abs().max() > 0.1


def test_the_term_is_the_sum_over_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeda.methods.flowseg.field._PIXELS_AT_ONCE", 4)
    rng = np.random.default_rng(0)
    ends, centroids, labels = rng.normal(size=(9, 3)), rng.normal(size=(5, 3)), np.arange(9) % 5
    expected = np.zeros((9, 3))
    for m in range(9):
        d = ((ends[m] - centroids) ** 2).sum(1) + 0.01
        p = d ** (-1 / 0.7) / (d ** (-1 / 0.7)).sum()
        for k in range(5):
            expected[m] += 2 / 0.7 * ((k == labels[m]) - p[k]) * (ends[m] - centroids[k]) / d[k]
    found, nearest = distance_term(*map(torch.from_numpy, (ends, labels, centroids)), 0.01, 0.7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    apart = ((ends[:, None] - centroids) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest.numpy(), apart.argmin(1))


def test_at_the_right_centroid_the_term_is_small() -> None:
    """With epsilon 1e-3 and 50 classes; with 1e-2 it would still be 0.7 somewhere."""
    centroids = torch.from_numpy(place_centroids("kronecker", 50, 3))
    sizes = [
        distance_term(centroids, torch.arange(50), centroids, e, 1.0)[0].norm(dim=1).max()
        for e in (1e-3, 1e-2)
    ]
    assert sizes[0] < 0.15 < 0.6 < sizes[1]


@pytest.mark.parametrize(
    ("kind", "gaps"), [("kronecker", (0.291, 0.154)), ("golden", (0.424, 0.226)), ("random", (0.098, 0.05))]
)
def test_centroids_lie_as_far_apart_as_they_should(kind: str, gaps: tuple[float, float]) -> None:
    """0.154 for 150 classes is the paper's figure."""
    for count, gap in zip((50, 150), gaps, strict=True):
        points = place_centroids(kind, count, 3)  # type: ignore[arg-type]
        assert points.shape == (count, 3) and points.dtype == np.float32
        np.testing.assert_array_equal((points.min(0), points.max(0)), ([-1] * 3, [1] * 3))
        if kind != "random":
            assert smallest_gap(points) == pytest.approx(gap, abs=2e-3)
        else:
            assert 0.02 < smallest_gap(points) < 0.25
        np.testing.assert_array_equal(points, points.astype(np.float16))


def test_a_single_class_has_a_place_too() -> None:
    assert np.isfinite(place_centroids("kronecker", 1, 3)).all()


def test_texts_are_placed_by_what_tells_them_apart() -> None:
    """Names share most of their embedding; less their mean, unlike names lie apart and like ones together."""
    rng = np.random.default_rng(0)
    shared, own = 10 * rng.normal(size=64), rng.normal(size=(20, 64))
    texts = shared + own
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    placed = project_texts(texts, texts.mean(0), 16)
    assert np.linalg.norm(placed, axis=1).mean() == pytest.approx(1, abs=0.15)
    nearly = project_texts(texts + 0.001 * rng.normal(size=texts.shape), texts.mean(0), 16)
    apart = np.linalg.norm(placed[:, None] - nearly[None], axis=-1)
    assert (apart.argmin(1) == np.arange(20)).all()
