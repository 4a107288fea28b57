"""The records that pass from module to module, in the order the data takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "GENERATED",
    "PHOTOGRAPH",
    "Caption",
    "ClassPrototypes",
    "NounSpan",
    "Prototype",
    "Reject",
    "Regions",
    "SyntheticImage",
    "TaggedCaption",
]

GENERATED, PHOTOGRAPH = "generated", "photograph"
"""Where a prototype comes from."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption. nouns: those given with it; None where a tagger shall find them."""

    id: str
    text: str
    nouns: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class NounSpan:
    """A noun of a caption.

    noun: its dictionary form.
    start, end: character positions in the caption's text.
    """

    noun: str
    start: int
    end: int


@dataclass(frozen=True)
class TaggedCaption:
    """A caption and its nouns, at least one."""

    caption: Caption
    spans: tuple[NounSpan, ...]


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A caption or noun that gave no prototype, and why.

    noun: empty for a whole caption.
    caption: empty where there is no text.
    """

    caption_id: str
    caption: str
    noun: str
    reason: str


@dataclass(frozen=True)
class SyntheticImage:
    """A generated image.

    pixels: (H, W, 3) uint8, RGB.
    noun_maps: (nouns, h, w) float32 cross-attention, non-negative, not normalised.
    """

    pixels: np.ndarray
    noun_maps: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Prototype:
    """A textual-visual prototype with its provenance.

    key: (K,) float32, unit length.
    vector: (D,) float32, not normalised.
    area: share of the image inside the mask, (0, 1].
    peak: maximum of the attention map over its mean.
    thumbnail: a small encoded image, faint outside of the noun's mask.
    source: "generated", or "photograph" for one of somebody's own images with a mask. A photograph has the
        image's name as its caption's id, no caption, and a peak of 1.
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
    source: str = GENERATED


@dataclass(frozen=True)
class ClassPrototypes:
    """What an index knows of each class.

    vectors: (C, D) float32, unit length.
    rows: (C, m) int64, the prototypes behind each class, -1 for none; m is of the class that has most.
    similarities: (C, m) float32, cosine of every neighbour's key and the class text, also of those left out;
        minus infinity for none.
    """

    vectors: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray


@dataclass(frozen=True)
class Regions:
    """Superpixels of an image, or other class-agnostic regions.

    labels: (H, W) int32, 0 .. R - 1; every number occurs.
    filled: how many are superpixels that fill the gaps between proposed masks.
    """

    labels: np.ndarray
    filled: int = 0

    def __len__(self) -> int:
        return int(self.labels.max()) + 1
