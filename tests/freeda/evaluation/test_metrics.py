from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from freeda.evaluation.metrics import ConfusionMatrix


def test_mean_iou_equals_scikit_learn_over_the_whole_data_set() -> None:
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 5, (4, 20, 30))
    truths[rng.random(truths.shape) < 0.1] = 255
    predictions = np.where(rng.random(truths.shape) < 0.6, truths % 5, rng.integers(0, 5, truths.shape))
    matrix = ConfusionMatrix(5)
    for truth, predicted in zip(truths, predictions, strict=True):
        matrix.add(truth, predicted)
    counted = truths != 255
    expected = jaccard_score(truths[counted], predictions[counted], average=None, labels=range(5))
    np.testing.assert_allclose(matrix.iou(), expected)
    assert matrix.mean_iou() == pytest.approx(expected.mean())
    assert matrix.pixel_accuracy() == pytest.approx((truths == predictions)[counted].mean())


def test_absent_classes_do_not_count_and_undecided_pixels_are_wrong() -> None:
    matrix = ConfusionMatrix(4)
    matrix.add(np.array([[0, 0, 1, 1]]), np.array([[0, 255, 1, 1]]))
    np.testing.assert_allclose(matrix.iou(), [0.5, 1.0, np.nan, np.nan])
    assert matrix.mean_iou() == 0.75


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="equal sizes"):
        ConfusionMatrix(2).add(np.zeros((2, 2)), np.zeros((2, 3)))
