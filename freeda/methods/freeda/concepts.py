"""What the background is made of: names that compete with the classes.

By default these are the index's other nouns. An index built from captions holds what pictures show, so what
is none of the classes looks like one of its other nouns; no threshold has to be found for a model.

Shapes: `C` classes, `n` nouns, `K` width of a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from freeda.class_names import ClassName, parse_classes
from freeda.errors import ConfigError
from freeda.index.noun_keys import NounKeys
from freeda.presets.settings import FROM_INDEX, BackgroundConcepts

__all__ = ["USUAL_CONCEPTS", "Concepts", "other_nouns", "parse_concepts", "unnamed"]

USUAL_CONCEPTS = tuple(
    """
    sky cloud wall building house floor ceiling window curtain carpet road pavement bridge fence grass field
    tree forest leaves ground sand gravel rock mountain snow water sea river
    """.split()  # noqa: SIM905 - a list of words reads as one
)
"""What surrounds things in photographs."""
_ALIKE = 2.0
"""A noun names a class where its key is nearer to the class text than the mean noun's by more than so many
standard deviations: "puppy" for "dog". It is no background then.
"""


@dataclass(frozen=True)
class Concepts:
    """Names that compete with the classes, and their (n, K) float32 unit text embeddings."""

    names: tuple[str, ...]
    texts: np.ndarray


def parse_concepts(concepts: str | Sequence[str]) -> BackgroundConcepts:
    """Names from "sky; wall" or a list of such entries. "index" stands for the index's other nouns, "usual"
    for `USUAL_CONCEPTS`, "none" for none.
    """
    if concepts == "none":
        return ()
    if concepts == "usual":
        return USUAL_CONCEPTS
    if concepts == FROM_INDEX:
        return FROM_INDEX
    return tuple(name for item in parse_classes(concepts) for name in item.names)


def unnamed(concepts: Sequence[str], classes: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """The concepts that are not among the names of the classes."""
    named = {name.casefold() for item in classes for name in item.names}
    return tuple(ClassName(name) for name in concepts if name.casefold() not in named)


def other_nouns(
    nouns: NounKeys, classes: Sequence[ClassName], texts: np.ndarray, retrieved: np.ndarray
) -> Concepts:
    """The nouns that stand for none of the classes.

    A noun stands for a class if it is one of its names, if half of its prototypes are behind classes, or if
    its key is unusually near to the class text.

    texts: (C, K) unit embeddings of the classes.
    retrieved: rows of the prototypes behind the classes.
    Raises `ConfigError` where no noun is left.
    """
    similarities = nouns.keys @ texts.T
    unusual = similarities.mean(0) + _ALIKE * similarities.std(0)
    behind = np.array([np.isin(rows, retrieved).mean() >= 0.5 for rows in nouns.rows])
    unnamed_nouns = {item.name for item in unnamed(nouns.names, classes)}
    other = ~behind & (similarities <= unusual).all(1) & [name in unnamed_nouns for name in nouns.names]
    if not other.any():
        raise ConfigError(
            "the index holds no noun besides those of the classes, so nothing can tell the background; name "
            "what it is made of (--background-concepts), or set a score that classes must exceed "
            "(--threshold)"
        )
    chosen = np.flatnonzero(other)
    return Concepts(tuple(nouns.names[number] for number in chosen), nouns.keys[chosen])
