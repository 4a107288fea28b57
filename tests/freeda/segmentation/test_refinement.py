from __future__ import annotations

import numpy as np
import torch

from freeda.segmentation.pamr import pamr
from freeda.segmentation.refinement import contenders, refined
from tests.freeda.segmentation.test_cells import AREAS, SIZE, windows


def test_contenders_are_the_best_of_any_row_in_each_group() -> None:
    found = list(windows(12))
    expected = set()
    for window in found:
        for row in window.rows:
            expected |= set(np.argsort(-row[:7])[:2].tolist())
            expected |= set((7 + np.argsort(-row[7:])[:2]).tolist())
    assert contenders(found, [slice(0, 7), slice(7, 12)], 2) == sorted(expected)
    found[0].rows[:, 3] = -1.0
    alone = contenders(found[:1], [slice(0, 7), slice(7, 12)], 2)
    assert 3 not in alone
    assert len(alone) < 12


def test_every_window_is_refined_and_then_averaged() -> None:
    found = list(windows(4))
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    scores = refined(found, image, [1, 3], 2, torch.device("cpu"))
    sums, visits = torch.zeros(2, *SIZE), torch.zeros(SIZE)
    for window, area in zip(found, AREAS, strict=True):
        maps = torch.from_numpy((window.mixture.toarray() @ window.rows)[window.parts]).movedim(-1, 0)
        sums[(..., *area)] += pamr(maps[[1, 3]], image[(..., *area)], 2)
        visits[area] += 1
    torch.testing.assert_close(scores.maps, sums / visits)
    assert (list(scores.numbers), len(scores)) == ([1, 3], 4)
