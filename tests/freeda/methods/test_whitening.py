"""Whitening, against what defines it and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.index.spread import Spread
from freeda.methods.freeda.whitening import Whitening

WIDTH = 8


@pytest.fixture
def vectors() -> np.ndarray:
    """(400, 8): 20 vectors of each of 20 nouns, which differ among themselves in two directions mostly."""
    rng = np.random.default_rng(3)
    spread = rng.normal(size=(WIDTH, WIDTH)) * np.array([3, 2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
    means = 4 * rng.normal(size=(20, WIDTH))
    return (np.repeat(means, 20, 0) + rng.normal(size=(400, WIDTH)) @ spread.T).astype(np.float32)


NOUNS = np.repeat(np.arange(20), 20)


def mapped(whitening: Whitening, vectors: np.ndarray) -> np.ndarray:
    """(N, D) as the whitening maps them, before they are of unit length again."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit - whitening.mean.numpy()) @ whitening.matrix.numpy()


def test_vectors_of_one_noun_differ_alike_in_all_directions(vectors: np.ndarray) -> None:
    spread = Spread.of(vectors, NOUNS)
    assert spread is not None
    held = mapped(Whitening.of(spread, 1e-9), vectors)
    apart = held - np.repeat(held.reshape(20, 20, WIDTH).mean(1), 20, 0)
    np.testing.assert_allclose(apart.T @ apart / (400 - 20), np.eye(WIDTH), atol=1e-3)


def test_with_much_shrinkage_it_is_the_cosine_around_the_mean(vectors: np.ndarray) -> None:
    spread = Spread.of(vectors, NOUNS)
    assert spread is not None
    found = Whitening.of(spread, 1e6)(torch.from_numpy(vectors)).numpy()
    centred = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred -= centred.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-4)


def test_the_order_and_damaged_vectors_change_nothing(vectors: np.ndarray) -> None:
    spread = Spread.of(vectors, NOUNS)
    damaged = np.concatenate([vectors, np.full((2, WIDTH), np.nan, np.float32)])
    order = np.random.default_rng(0).permutation(402)
    other = Spread.of(damaged[order], np.append(NOUNS, [0, 99])[order])
    assert spread is not None and other is not None
    np.testing.assert_allclose(other.within, spread.within, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(other.mean, spread.mean, rtol=1e-9)


def test_of_a_few_vectors_little_is_believed(vectors: np.ndarray) -> None:
    few = Spread.of(vectors[:3], np.array([0, 0, 1]))
    assert few is not None and few.freedom == 1
    known = Spread(few.mean, few.within, 100)
    spans = [np.linalg.svd(Whitening.of(item, 0.1).matrix.numpy(), compute_uv=False) for item in (few, known)]
    # One direction varies: its variance is the whole trace, of which an eighth is the mean.
    weak, strong = (float(item[0] / item[-1]) for item in spans)
    assert weak == pytest.approx(np.sqrt((1 + 0.1) / 0.1), rel=1e-3)
    assert strong == pytest.approx(np.sqrt((1 + 0.1 / 8) / (0.1 / 8)), rel=1e-3)


def test_without_two_vectors_of_one_noun_nothing_is_known(vectors: np.ndarray) -> None:
    assert Spread.of(vectors[::20], NOUNS[::20]) is None
    assert Spread.of(vectors[:0], NOUNS[:0]) is None


def test_features_that_are_not_finite_stay_so(vectors: np.ndarray) -> None:
    spread = Spread.of(vectors, NOUNS)
    assert spread is not None
    vectors[3, 2] = np.nan
    found = Whitening.of(spread, 0.1)(torch.from_numpy(vectors))
    assert torch.isnan(found[3]).all() and torch.isfinite(found[4]).all()
