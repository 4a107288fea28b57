"""The frozen records that cross module borders, in the order the data takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "Caption",
    "ClassName",
    "ClassPrototypes",
    "NounSpan",
    "Prototype",
    "Reject",
    "Regions",
    "SyntheticImage",
]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption. `nouns` is None where they are to be found by a tagger."""

    id: str
    text: str
    nouns: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class NounSpan:
    """A noun of a caption: its dictionary form and where it stands.

    start, end: character positions in the caption's text.
    """

    noun: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A caption or noun that gave no prototype, and why. `noun` is empty for a whole caption, `caption` where
    there is no text.
    """

    caption_id: str
    caption: str
    noun: str
    reason: str


@dataclass(frozen=True)
class SyntheticImage:
    """A generated picture.

    pixels: (H, W, 3) uint8, RGB.
    noun_maps: (nouns, h, w) float32 cross-attention, non-negative, not normalised.
    """

    pixels: np.ndarray
    noun_maps: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prototype:
    """A textual-visual prototype with its provenance.

    key: (K,) float32 unit vector; vector: (D,) float32, not normalised;
    area: share of the picture in the mask, (0, 1]; peak: attention peak over its mean.
    """

    id: str
    noun: str
    caption_id: str
    caption: str
    key: np.ndarray
    vector: np.ndarray
    area: float
    peak: float
    seed: int
    thumbnail: bytes


@dataclass(frozen=True)
class ClassName:
    """A class to segment: the name shown and every name it is looked up by (the first is `name`)."""

    name: str
    synonyms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class ClassPrototypes:
    """What the index knows of each class.

    vectors: (C, D) float32 unit vectors; rows: (C, K) int64 the prototypes behind each, -1 for none;
    similarities: (C, K) float32, of every neighbour's key and the class text, also where one was left out.
    """

    vectors: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray


@dataclass(frozen=True)
class Regions:
    """Superpixels of an image.

    labels: (H, W) int32, 0 .. R - 1, every number used.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return int(self.labels.max()) + 1
