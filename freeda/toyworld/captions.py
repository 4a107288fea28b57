"""A small grammar that says what a scene shows: synonyms, adjectives, counts, two-word nouns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from freeda.toyworld.scenes import Scene
from freeda.toyworld.vocabulary import Kind

__all__ = ["describe", "describe_parts", "mention", "prompts"]

_SYNONYM_RATE = 0.3
_COLOR_RATE = 0.55
_COUNTS = {2: ("two",), 3: ("three",), 4: ("four",)}
_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "an image of ")
_ON = {
    "grass": "on the grass",
    "lawn": "on a lawn",
    "meadow": "in a meadow",
    "sand": "on the sand",
    "beach": "on a beach",
    "water": "in the water",
    "sea": "in the sea",
    "lake": "in a lake",
    "snow": "in the snow",
    "brick": "on brick",
    "brick wall": "in front of a brick wall",
    "sky": "in the sky",
    "wood": "on wood",
    "wooden floor": "on a wooden floor",
    "gravel": "on gravel",
    "pebbles": "on pebbles",
    "tiles": "on tiles",
    "tile floor": "on a tile floor",
    "carpet": "on a carpet",
    "rug": "on a rug",
}
_BEHIND = {
    "sky": "under the sky",
    "brick": "before brick",
    "brick wall": "in front of a brick wall",
    "water": "by the water",
    "sea": "by the sea",
    "lake": "by a lake",
}
_PROMPTS = (
    "a photo of {}",
    "a bad photo of {}",
    "a photo of the large {}",
    "a photo of the small {}",
    "itap of a {}",
    "a origami {}",
    "a {} in a video game",
    "art of the {}",
    "{}",
)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that names everything in the scene, such as "two kittens and a red bus on a lawn"."""
    return describe_parts([(item.kind, item.color) for item in scene.things], scene.stuff, rng)


def describe_parts(
    things: Sequence[tuple[Kind, str]], stuff: Sequence[Kind], rng: np.random.Generator
) -> str:
    """The same for some of a scene's things, each with its colour, on some of its stuff.

    stuff: one kind, or two, the one behind first.
    """
    groups = groupby(things, key=lambda item: item[0])
    phrases = [_thing_phrase(kind, [color for _, color in group], rng) for kind, group in groups]
    opening = str(rng.choice(_OPENINGS))
    named = f"{_join(phrases)} " if phrases else ""
    return f"{opening}{named}{_place_phrase(stuff, rng)}"


def mention(scene: Scene, rng: np.random.Generator) -> str:
    """A short prompt that names one thing or stuff of the scene, as class prompts do."""
    kinds = scene.kinds
    noun = _choose_noun(kinds[int(rng.integers(len(kinds)))], rng)
    return str(rng.choice(_PROMPTS)).format(noun)


def prompts(kind: Kind) -> list[str]:
    """All that `mention` may say of a kind."""
    return [prompt.format(noun) for noun in (kind.name, *kind.synonyms) for prompt in _PROMPTS]


def _thing_phrase(kind: Kind, colors: Sequence[str], rng: np.random.Generator) -> str:
    if len(colors) > 1:
        return f"{rng.choice(_COUNTS[len(colors)])} {kind.plural}"
    noun = _choose_noun(kind, rng)
    words = f"{colors[0]} {noun}" if rng.random() < _COLOR_RATE else noun
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _choose_noun(kind: Kind, rng: np.random.Generator) -> str:
    if kind.synonyms and rng.random() < _SYNONYM_RATE:
        return str(rng.choice(kind.synonyms))
    return kind.name


def _join(phrases: Sequence[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _place_phrase(stuff: Sequence[Kind], rng: np.random.Generator) -> str:
    ground = _ON[_choose_noun(stuff[-1], rng)]
    if len(stuff) == 1:
        return ground
    return f"{ground} {_BEHIND[_choose_noun(stuff[0], rng)]}"
