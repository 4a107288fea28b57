from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from freeda.toyworld import STUFF, THINGS
from freeda.toyworld.captions import describe, mention, prompts
from freeda.toyworld.scenes import LABELS, draw_scene, draw_thing, scene_rng
from freeda.toyworld.vocabulary import KINDS, THING_KINDS


def test_the_vocabulary_is_large_enough_and_unambiguous() -> None:
    assert len(THINGS) >= 40
    assert len(STUFF) >= 8
    nouns = [noun for kind in KINDS for noun in kind.nouns]
    assert len(nouns) == len(set(nouns))
    assert {"hot dog", "fire truck"} <= set(THINGS)


def test_scenes_are_the_same_for_the_same_number_and_differ_otherwise() -> None:
    first, again = (draw_scene(scene_rng("example", 3), (96, 140)) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    for split, number in (("example", 4), ("train", 3), ("evaluation", 3), ("validation", 3)):
        other = draw_scene(scene_rng(split, number), (96, 140))
        assert (other.image != first.image).mean() > 0.3


@pytest.mark.parametrize("size", [64, (70, 130), (200, 90)])
def test_masks_are_exact_and_complete(size: int | tuple[int, int]) -> None:
    wanted = (size, size) if isinstance(size, int) else size
    for number in range(12):
        scene = draw_scene(scene_rng("example", number), size)
        assert scene.image.shape == (*wanted, 3)
        assert scene.labels.shape == scene.instances.shape == wanted
        assert 1 <= len(scene.things) <= 4
        for instance in np.unique(scene.instances):
            kind = scene.kinds[instance]
            assert (scene.labels[scene.instances == instance] == LABELS[kind.name]).all()


def test_a_thing_s_mask_is_where_it_changed_the_picture() -> None:
    scene = draw_scene(scene_rng("example", 1), 128)
    rng = scene_rng("example", 1)
    from freeda.toyworld.scenes import _draw_background

    empty, _, backgrounds = _draw_background(rng, 128, 128)
    changed = np.abs(scene.image.astype(float) - empty).max(2) > 25
    inside = scene.instances >= len(backgrounds)
    assert (changed & inside).sum() / changed.sum() > 0.9
    assert (changed & inside).sum() / inside.sum() > 0.7


@pytest.mark.parametrize("kind", THING_KINDS, ids=lambda kind: kind.key)
def test_two_of_a_kind_differ_in_shape_and_colour(kind) -> None:
    pictures = [
        draw_thing(np.random.default_rng(seed), kind, kind.colors[seed % len(kind.colors)], 64)
        for seed in (0, 1)
    ]
    alpha = [picture[..., 3] > 127 for picture in pictures]
    for mask in alpha:
        assert 0.1 < mask.mean() < 0.9
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.mean() < 0.1, "cut off at the border"
    assert (alpha[0] != alpha[1]).mean() > 0.01
    assert not np.array_equal(pictures[0], pictures[1])


def test_things_occlude_one_another_but_stay_visible() -> None:
    overlaps = 0
    for number in range(60):
        scene = draw_scene(scene_rng("example", number), 128)
        for index in range(len(scene.things)):
            visible = (scene.instances == index + len(scene.stuff)).sum()
            assert visible > 60, f"scene {number} hides a {scene.things[index].kind.name}"
        boxes = [(t.top, t.left, t.side) for t in scene.things]
        overlaps += any(
            abs(a[0] - b[0]) < min(a[2], b[2]) and abs(a[1] - b[1]) < min(a[2], b[2])
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
    assert overlaps > 5


def test_captions_name_every_kind_in_the_scene() -> None:
    plurals = synonyms = colors = 0
    for number in range(150):
        rng = scene_rng("example", number)
        scene = draw_scene(rng, 32)
        caption = describe(scene, rng)
        for kind in scene.kinds:
            forms = {*kind.nouns, kind.plural} - {""}
            assert any(re.search(rf"\b{form}\b", caption) for form in forms), (caption, kind.name)
            plurals += bool(kind.plural) and kind.plural in caption
            synonyms += any(re.search(rf"\b{form}\b", caption) for form in kind.synonyms)
        colors += any(f" {thing.color} {thing.kind.name}" in caption for thing in scene.things)
    assert min(plurals, synonyms, colors) > 10


def test_mentions_name_one_kind_of_the_scene() -> None:
    rng = scene_rng("example", 0)
    scene = draw_scene(rng, 32)
    for _ in range(30):
        text = mention(scene, rng)
        assert any(text in prompts(kind) for kind in scene.kinds)
        assert any(noun in text for kind in scene.kinds for noun in kind.nouns)


def test_a_record_of_a_scene_cannot_be_changed() -> None:
    scene = draw_scene(scene_rng("example", 0), 32)
    with pytest.raises(AttributeError):
        scene.labels = None  # type: ignore[misc]
    assert replace(scene).things == scene.things
