from __future__ import annotations

import numpy as np
import pytest

from freeda.records import Regions
from freeda.segmentation.windows import WindowedImage, same_sized, window_origins


@pytest.mark.parametrize("side", [1, 50, 64, 65, 96, 200, 641])
def test_windows_cover_everything_and_stay_inside(side: int) -> None:
    origins = window_origins(side, 64, 32)
    covered = np.zeros(side, int)
    for origin in origins:
        assert 0 <= origin <= max(side - 64, 0)
        covered[origin : origin + 64] += 1
    assert (covered > 0).all()
    assert len(set(origins)) == len(origins)


def whole(window: np.ndarray) -> Regions:
    return Regions(np.zeros(window.shape[:2], np.int32))


def cut(height: int, width: int) -> WindowedImage:
    return WindowedImage.cut(np.zeros((height, width, 3), np.uint8), 64, 64, 32, whole)


def test_every_window_is_seen_once_with_others_of_its_size() -> None:
    images = [cut(64, 64), cut(64, 130), cut(200, 64)]
    images[0] = WindowedImage.cut(np.zeros((40, 50, 3), np.uint8), 40, 64, 32, whole)
    batches = list(same_sized(images, 3))
    seen = [place for batch in batches for place in batch]
    assert sorted(seen) == [(i, n) for i, item in enumerate(images) for n in range(len(item.areas))]
    for batch in batches:
        assert len(batch) <= 3
        assert len({images[i].window(n).shape for i, n in batch}) == 1


def test_the_most_central_window_comes_first() -> None:
    image = cut(64, 160)  # windows at 0, 32, 64 and 96
    assert image.windows_at(10, 100)[0] == 2
    assert image.windows_at(10, 0) == [0]
    assert image.region_at(0, image.regions[0], 5, 5).sum() == 64 * 64
