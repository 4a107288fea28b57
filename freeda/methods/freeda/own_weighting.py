"""Prototypes of somebody's own images beside generated ones: a handful outweighs thousands.

Shapes: `C` classes, `K` width of a key, `D` width of a visual vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freeda.class_names import ClassName
from freeda.index.reader import PrototypeIndex
from freeda.index.spread import Spread, Spreads, evenly_taken
from freeda.records import ClassPrototypes, Prototype
from freeda.vectors import unit

__all__ = ["spread_with_photographs", "with_photographs"]


def with_photographs(
    found: ClassPrototypes,
    index: PrototypeIndex,
    classes: Sequence[ClassName],
    texts: np.ndarray,
    weight: float,
    more: Sequence[Prototype] = (),
) -> ClassPrototypes:
    """What was retrieved, with each class's photographs: those whose noun is one of the class's names.

    texts: (C, K), of the classes, and of others after them, which have no photographs.
    weight: share of the photographs' mean in the class's vector; 0 leaves them out.
    more: photographs that the index does not hold; they have no rows.
    """
    if not weight or not (more or index.set_apart.any()):
        return found
    vectors, rows, similarities = found.vectors.copy(), list(found.rows), list(found.similarities)
    for number, item in enumerate(classes):
        places = index.photographs_of(item.names)
        looks = index.vectors(places)
        places, looks = (part[np.isfinite(looks).all(1)] for part in (places, looks))
        looks = np.concatenate([looks, *_looks_of(item, more)])
        if len(looks):
            vectors[number] = unit(weight * unit(looks.mean(0)) + (1 - weight) * vectors[number])
        if len(places):
            rows[number] = np.concatenate([places, rows[number]])
            alike = index.keys_of(places) @ texts[number]
            similarities[number] = np.concatenate([alike.astype(np.float32), similarities[number]])
    return ClassPrototypes(vectors, _padded(rows, -1), _padded(similarities, -np.inf))


def spread_with_photographs(
    index: PrototypeIndex, weight: float, more: Sequence[Prototype] = ()
) -> Spread | None:
    """How visual vectors of one noun differ; None where no noun has two.

    weight: of the photographs' spread. more: photographs that the index does not hold.
    """
    spreads = index.spreads
    if more:
        places = evenly_taken(np.flatnonzero(index.set_apart))
        looks = np.concatenate([index.vectors(places), np.stack([item.vector for item in more])])
        nouns = np.concatenate([index.nouns_of(places), [item.noun for item in more]])
        own = Spread.of(looks, np.unique(nouns, return_inverse=True)[1])
        spreads = Spreads(spreads.ordinary, own)
    return spreads.joined(weight)


def _looks_of(item: ClassName, prototypes: Sequence[Prototype]) -> list[np.ndarray]:
    """(1, D) vectors of those whose noun is one of a class's names, in any case."""
    names = {name.casefold() for name in item.names}
    return [one.vector[None] for one in prototypes if one.noun.casefold() in names]


def _padded(lines: Sequence[np.ndarray], value: float) -> np.ndarray:
    width = max(map(len, lines))
    return np.stack([np.pad(line, (0, width - len(line)), constant_values=value) for line in lines])
