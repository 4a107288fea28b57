from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.segmentation.score_maps import DenseScores, best_class


@pytest.mark.parametrize("size", [(7, 11), (12, 40), (3, 2)])
def test_best_classes_are_those_of_whole_image_upsampling(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.segmentation.score_maps._BAND_BYTES", 4 * 4 * size[1] * 2)
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0))
    upsampled = torch.nn.functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    labels, best = best_class(scores, size)
    np.testing.assert_array_equal(labels, upsampled.argmax(0))
    np.testing.assert_allclose(best, upsampled.max(0).values, rtol=1e-5)


def test_classes_that_cannot_win_need_no_map() -> None:
    maps = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(1))
    scores = DenseScores(maps, [1, 4, 5], 7)
    everything = torch.full((7, 5, 6), -torch.inf)
    everything[[1, 4, 5]] = maps
    torch.testing.assert_close(scores.dense(), everything)
    for classes in (slice(0, 7), slice(0, 5), slice(2, 7)):
        labels, best = scores.best((5, 6), classes)
        np.testing.assert_array_equal(labels, everything[classes].argmax(0))
        np.testing.assert_array_equal(best, everything[classes].max(0).values)
