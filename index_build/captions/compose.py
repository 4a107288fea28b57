"""Captions composed for a list of classes, where there are none at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import inflect
import numpy as np

from freeda.class_names import ClassName
from freeda.errors import CaptionsError
from freeda.records import Caption

__all__ = ["compose_captions"]

_OPENINGS = ("", "", "a photo of ", "a close-up photo of ", "a bright photo of ", "a wide shot of ")
_ADJECTIVES = ("", "", "small ", "large ", "old ", "new ", "colorful ", "beautiful ", "dark ", "plain ")
_RELATIONS = (" and ", " next to ", " in front of ", " behind ", " near ")
_PLACES = (
    "",
    "",
    " in a city",
    " in a village",
    " in a park",
    " in a forest",
    " in a kitchen",
    " in a living room",
    " in an office",
    " on a street",
    " on a table",
    " on a beach",
    " by a lake",
    " in the mountains",
    " at night",
    " at sunset",
    " on a rainy day",
    " seen from above",
)
_UNCOUNTABLE = frozenset(
    """
    asphalt clothing clouds concrete dirt food furniture glass grass gravel ground ice metal moss mud
    paper pavement plastic rain rice sand sea sky snow soil stone straw sugar textile vegetation water
    wood
    """.split()  # noqa: SIM905 - a list of words reads as one
)
"""Names that take no article; for others, only English grammar knows."""
_PAIRED_SHARE = 0.4
_TRIES = 50


def compose_captions(classes: Sequence[ClassName], per_class: int, seed: int = 0) -> Iterator[Caption]:
    """`per_class` different captions about each class, some of them with another class beside it.

    Every name of a class is used in turn. The class names are given as the caption's nouns, so that a
    build takes them as they are; places and adjectives are there for variety only. The captions of a
    class depend on the seed, the class and the list. Raises `CaptionsError` where `per_class` is more
    than the patterns give.
    """
    grammar = inflect.engine()
    for number, item in enumerate(classes):
        rng = np.random.default_rng([seed, number])
        others = [other for other in classes if other is not item]
        seen: set[str] = set()
        for count in range(per_class):
            name = item.names[count % len(item.names)]
            text, nouns = _new_caption(name, others, rng, grammar, seen)
            if not text:
                raise CaptionsError(
                    f"{per_class} captions about '{item.name}' are more than the patterns give "
                    f"({len(seen)}); ask for fewer"
                )
            seen.add(text)
            yield Caption(id=f"{number}-{count}", text=text, nouns=nouns)


def _new_caption(
    name: str,
    others: Sequence[ClassName],
    rng: np.random.Generator,
    grammar: inflect.engine,
    seen: set[str],
) -> tuple[str, tuple[str, ...]]:
    """One that is not in `seen`; empty where none is found."""
    for _ in range(_TRIES):
        nouns: tuple[str, ...] = (name,)
        text = str(rng.choice(_OPENINGS)) + _noun_phrase(name, str(rng.choice(_ADJECTIVES)), grammar)
        if others and rng.random() < _PAIRED_SHARE:
            other = others[int(rng.integers(len(others)))].name
            nouns = (name, other)
            text += str(rng.choice(_RELATIONS)) + _noun_phrase(other, "", grammar)
        text += str(rng.choice(_PLACES))
        if text not in seen:
            return text, nouns
    return "", ()


def _noun_phrase(name: str, adjective: str, grammar: inflect.engine) -> str:
    words = f"{adjective}{name}"
    if name.split()[-1].lower() in _UNCOUNTABLE or grammar.singular_noun(name):
        return words
    return str(grammar.a(words))
