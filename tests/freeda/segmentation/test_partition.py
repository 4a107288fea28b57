"""Overlapping masks with gaps become regions."""

from __future__ import annotations

import numpy as np

from freeda.segmentation.partition import partition


def test_parts_lie_on_wholes_and_gaps_are_filled() -> None:
    gaps = np.repeat(np.arange(4), 5).reshape(4, 5)
    whole, part = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    whole[:3, :3], part[1, 1:4] = True, True
    regions = partition(np.stack([part, whole]), gaps)
    expected = [
        [1, 1, 1, 2, 2],
        [1, 0, 0, 0, 3],
        [1, 1, 1, 4, 4],
        [5, 5, 5, 5, 5],
    ]
    np.testing.assert_array_equal(regions.labels, expected)
    assert regions.filled == 4 and regions.labels.dtype == np.int32


def test_a_mask_that_others_hide_is_no_region() -> None:
    left = np.zeros((2, 4), bool)
    left[:, :2] = True
    masks = np.stack([np.ones((2, 4), bool), left, ~left, left])
    regions = partition(masks, np.zeros((2, 4), int))
    assert len(regions) == 2 and regions.filled == 0
    np.testing.assert_array_equal(regions.labels == regions.labels[0, 0], left)


def test_without_masks_the_gaps_are_all() -> None:
    gaps = np.array([[0, 0, 1], [2, 2, 1]])
    regions = partition(np.zeros((0, 2, 3), bool), gaps)
    np.testing.assert_array_equal(regions.labels, gaps)
    assert regions.filled == 3
