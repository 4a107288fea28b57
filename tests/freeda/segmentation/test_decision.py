from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.segmentation.decision import THRESHOLD_ROW, Decision, rank
from freeda.segmentation.decision import decide as decide_maps
from freeda.segmentation.score_maps import DenseScores

NAMES = ("cat", "dog", "owl")


def decide(scores: torch.Tensor, *arguments: object, **options: object) -> Decision:
    return decide_maps(DenseScores.of(scores), *arguments, **options)


def test_without_a_background_the_best_class_is_taken() -> None:
    scores = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    result = decide(scores, (4, 5), NAMES)
    np.testing.assert_array_equal(result.labels, scores.argmax(0))
    assert result.classes == NAMES
    assert result.foreground is None


@pytest.mark.parametrize("concepts", [0, 2])
def test_background_is_where_the_constant_or_a_concept_is_best(concepts: int) -> None:
    scores = torch.rand(3 + concepts, 30, 40, generator=torch.Generator().manual_seed(1))
    constant = np.full((1, 30, 40), 0.6, np.float32)
    result = decide(scores, (30, 40), NAMES, background=0.6)
    everything = np.concatenate([constant, scores[3:].numpy(), scores[:3].numpy()])
    expected = np.maximum(everything.argmax(0) - concepts, 0)
    np.testing.assert_array_equal(result.labels, expected)
    np.testing.assert_array_equal(result.scores, everything.max(0))
    assert result.classes == ("background", *NAMES)
    assert 0.1 < (expected == 0).mean() < 0.9


def test_a_tie_belongs_to_the_background() -> None:
    scores = torch.tensor([[[0.5, 0.5, 0.7]], [[0.1, 0.2, 0.3]], [[0.1, 0.1, 0.1]], [[0.2, 0.5, 0.7]]])
    result = decide(scores, (1, 3), NAMES, background=0.5)
    assert result.labels.tolist() == [[0, 0, 0]]


def test_undecided_pixels_stay_so_at_every_threshold() -> None:
    scores = torch.tensor([[[0.1, float("nan")]], [[0.2, 0.5]], [[0.0, 0.0]]])
    result = decide(scores, (1, 2), NAMES, background=0.15)
    assert result.labels.tolist() == [[2, 255]]
    assert result.foreground is not None
    assert result.foreground.decide(0.9, 255)[0].tolist() == [[0, 255]]


def test_margins_tell_the_thresholds_at_which_a_pixel_is_background() -> None:
    scores = torch.rand(5, 10, 10, generator=torch.Generator().manual_seed(2))
    foreground = decide(scores, (10, 10), NAMES, background=0.5).foreground
    assert foreground is not None
    for threshold in (0.0, 0.4, 0.8, 1.0):
        found = foreground.decide(threshold, 255)[0] == 0
        np.testing.assert_array_equal(found, foreground.margins() <= threshold)
    assert foreground.decide(0.0, 255)[0].min() == 0


def test_a_pixel_s_rows_are_ranked_as_it_is_decided() -> None:
    """Two classes, two concepts, and values that tie often."""
    rng = np.random.default_rng(0)
    for threshold in (None, 0.2):
        for _ in range(50):
            values = rng.integers(0, 4, 4 if threshold is not None else 2) / 10
            scores = torch.tensor(values, dtype=torch.float32)[:, None, None]
            label = int(decide(scores, (1, 1), ("cat", "dog"), background=threshold).labels[0, 0])
            best = rank(values.tolist(), 2, threshold)[0]
            expected = label if threshold is None else label - 1
            assert (best if best in (0, 1) else THRESHOLD_ROW) == (
                expected if expected >= 0 else THRESHOLD_ROW
            )
