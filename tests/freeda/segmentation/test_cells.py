"""Scores by cell against scores painted on every pixel of every window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional

from freeda.segmentation.borders import best_of_mixtures
from freeda.segmentation.cells import CellScores, WindowParts
from freeda.segmentation.regions import token_shares

SIZE = (40, 70)
AREAS = [(slice(0, 40), slice(left, left + 40)) for left in (0, 20, 30)]


def windows(classes: int, seed: int = 0) -> Iterator[WindowParts]:
    """Windows of about 20 regions; in one, some pixels are mixed of four rows each."""
    rng = np.random.default_rng(seed)
    for number, area in enumerate(AREAS):
        labels = rng.integers(0, 20, (8, 8)).repeat(5, 0).repeat(5, 1)
        rows = rng.uniform(0, 1, (20, classes)).astype(np.float32)
        mixture = sparse.identity(20, np.float32, "csr")
        if number == 1:
            labels[3:6, 7:15] = 20 + np.arange(24).reshape(3, 8)
            shares = rng.dirichlet(np.ones(4), 24).astype(np.float32)
            places = rng.permuted(np.tile(np.arange(20), (24, 1)), axis=1)[:, :4]
            mixed = sparse.csr_matrix((shares.ravel(), (np.arange(24).repeat(4), places.ravel())), (24, 20))
            mixture = sparse.vstack([mixture, mixed], "csr")
        yield WindowParts(area, labels, mixture, rows)


def painted(found: list[WindowParts], classes: int) -> torch.Tensor:
    sums, visits = torch.zeros(classes, *SIZE), torch.zeros(SIZE)
    for window in found:
        scores = (window.mixture @ window.rows)[window.parts]
        sums[(..., *window.area)] += torch.from_numpy(scores).movedim(-1, 0)
        visits[window.area] += 1
    return sums / visits


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_cells_hold_the_mean_of_the_windows(classes: int) -> None:
    found = list(windows(classes))
    cells = CellScores.of(found, SIZE)
    np.testing.assert_allclose(cells.dense(), painted(found, classes), rtol=1e-6)
    assert len(np.unique(cells.cells)) == len(cells.visits) < 1500
    assert len(cells) == classes


@pytest.mark.parametrize("size", [SIZE, (97, 131), (40, 71), (11, 200), (13, 9)])
@pytest.mark.parametrize("classes", [slice(0, 30), slice(0, 7), slice(12, 30)])
def test_labels_are_those_of_upsampled_scores(
    size: tuple[int, int], classes: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.segmentation.cells._BAND_PIXELS", 1500)
    monkeypatch.setattr("freeda.segmentation.cells._BLOCK_BYTES", 4000)
    monkeypatch.setattr("freeda.segmentation.borders._BLOCK_BYTES", 8000)
    found = list(windows(30))
    labels, scores = CellScores.of(found, SIZE).best(size, classes)
    dense = painted(found, 30)[None, classes].double()
    expected = functional.interpolate(dense, size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_array_equal(labels, expected.argmax(0))
    np.testing.assert_allclose(scores, expected.max(0).values, rtol=1e-5)
    assert labels.dtype == np.int32


def test_a_class_that_is_nowhere_best_can_win_between_cells() -> None:
    """Second in both of two cells, it is first in their middle."""
    rows = np.array([[1.0, 0.0, 0.8], [0.0, 1.0, 0.8]], np.float32)
    parts = np.array([[0, 1]])
    window = WindowParts((slice(0, 1), slice(0, 2)), parts, sparse.identity(2, np.float32, "csr"), rows)
    labels, scores = CellScores.of([window], (1, 2)).best((1, 10), slice(0, 3))
    assert labels.tolist() == [[0, 0, 0, 2, 2, 2, 2, 1, 1, 1]]
    assert scores[0, 4] == pytest.approx(0.8)


def test_undecided_parts_have_no_finite_score() -> None:
    found = list(windows(5))
    found[0].rows[3, 2] = np.nan
    dense = painted(found, 5)[None]
    upsampled = functional.interpolate(dense, (80, 140), mode="bilinear", align_corners=False)[0]
    _, scores = CellScores.of(found, SIZE).best((80, 140), slice(0, 5))
    undecided = torch.isnan(upsampled).any(0).numpy()
    assert 0 < undecided.mean() < 0.5
    np.testing.assert_array_equal(np.isnan(scores), undecided)


def test_mixtures_of_up_to_four_cells() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(9, 40)).astype(np.float32)
    cells = rng.integers(0, 9, (4, 500))
    cells[1:, ::3] = cells[:1, ::3]
    shares = rng.dirichlet(np.ones(4), 500).T.astype(np.float32)
    labels, values = best_of_mixtures(cells, shares, lambda some: scores[some], 40)
    expected = np.einsum("kn,knc->nc", shares.astype(float), scores[cells].astype(float))
    np.testing.assert_array_equal(labels, expected.argmax(1))
    np.testing.assert_allclose(values, expected.max(1), rtol=1e-4, atol=1e-6)


def test_pixels_take_tokens_as_corner_aligned_upsampling_does() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.normal(size=(5 * 7, 3)).astype(np.float32)
    maps = torch.from_numpy(tokens.T.reshape(1, 3, 5, 7))
    expected = functional.interpolate(maps, (23, 31), mode="bilinear", align_corners=True)[0].flatten(1).T
    pixels = rng.permutation(23 * 31)[:200]
    found = token_shares((5, 7), (23, 31), pixels) @ tokens
    np.testing.assert_allclose(found, expected[torch.from_numpy(pixels)], atol=1e-5)
