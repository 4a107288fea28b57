"""Windows of training scenes: whole things, borders of latents, captions of what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from freeda.toyworld.train.crops import CELL, SceneBoxes, draw_crops
from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.train.diffusion import _Views
from freeda.toyworld.vocabulary import KINDS

SCENES = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    return SceneCache.open(tmp_path_factory.mktemp("scenes"), SCENES)


@pytest.fixture(scope="module")
def boxes(cache: SceneCache) -> SceneBoxes:
    return SceneBoxes.of(cache)


def names_in(caption: str) -> set[str]:
    """The kinds that a caption names, by the longest name that is in it."""
    found = set()
    for kind in sorted(KINDS, key=lambda kind: -max(map(len, (*kind.nouns, kind.plural)))):
        for name in sorted({*kind.nouns, kind.plural} - {""}, key=len, reverse=True):
            if f" {name} " in f" {caption.replace(',', ' ')} ":
                found.add(kind.name)
                caption = caption.replace(name, "")
    return found


@pytest.mark.parametrize("side", [64, 96])
def test_a_window_holds_a_whole_thing_and_begins_on_a_latent(
    cache: SceneCache, boxes: SceneBoxes, side: int
) -> None:
    numbers = boxes.scenes_fitting(side)
    assert 10 < len(numbers) <= SCENES
    crops = draw_crops(cache, boxes, numbers, side, np.random.default_rng(0))
    assert (crops.corners % CELL == 0).all()
    assert (crops.corners >= 0).all()
    assert (crops.corners + side <= 128).all()
    for number, (top, left) in zip(numbers, crops.corners, strict=True):
        shown = cache.instances[number][top : top + side, left : left + side]
        stuffs = len(cache.contents[number].stuff)
        whole = [
            (shown == stuffs + thing).sum() == (cache.instances[number] == stuffs + thing).sum()
            for thing in boxes.fitting(number, side)
        ]
        assert any(whole)


def test_a_caption_names_what_its_window_shows(cache: SceneCache, boxes: SceneBoxes) -> None:
    numbers = boxes.scenes_fitting(64)
    crops = draw_crops(cache, boxes, numbers, 64, np.random.default_rng(1))
    hidden = 0
    for number, (top, left), caption in zip(numbers, crops.corners, crops.captions, strict=True):
        content, instances = cache.contents[number], cache.instances[number]
        shown = instances[top : top + 64, left : left + 64]
        named = names_in(caption)
        for thing, (kind, _) in enumerate(content.things):
            share = (shown == len(content.stuff) + thing).sum() / max(
                1, (instances == len(content.stuff) + thing).sum()
            )
            alike = [other for other, _ in content.things].count(kind)
            if share > 0.5:
                assert kind.name in named, caption
            elif share < 0.2 and alike == 1:
                assert kind.name not in named, caption
                hidden += 1
    assert hidden > 5


def test_latents_masks_and_features_are_of_the_same_place() -> None:
    row = torch.arange(128.0)[:, None].expand(128, 128)
    maps = torch.stack([row, row.T])[None].expand(2, 2, 128, 128)
    views = _Views(np.arange(2), np.array([[32, 8], [0, 60]]), 64, ["", ""])
    pixels = views.cut(maps, 1)
    assert pixels[0, :, 0, 0].tolist() == [32, 8]
    assert pixels[1, :, 0, 0].tolist() == [0, 60]
    latents = views.cut(torch.nn.functional.avg_pool2d(maps, CELL), CELL)
    torch.testing.assert_close(latents, torch.nn.functional.avg_pool2d(pixels, CELL))
    sampled = torch.nn.functional.grid_sample(maps, views.grid(8), align_corners=False)
    torch.testing.assert_close(sampled, torch.nn.functional.avg_pool2d(pixels, 8), rtol=0, atol=1e-3)
