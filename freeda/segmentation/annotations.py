"""Images whose segments are known: what trained methods learn from, and what panoptic results are compared
with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Protocol

import numpy as np

from freeda.class_names import ClassName
from freeda.errors import ConfigError

__all__ = [
    "OTHER",
    "UNMARKED",
    "AnnotatedImage",
    "AnnotatedImages",
    "OnlyClasses",
    "WithNouns",
    "segments_by_class",
]

UNMARKED = -1
"""Where an annotation says nothing."""
OTHER = -2
"""Where it says that there is none of the classes: a background."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its segments.

    image: (H, W, 3) uint8 RGB.
    segments: (H, W) int32, a segment's number, counted from 0, or `UNMARKED`, or `OTHER`.
    labels: each segment's class.
    crowds: segments that hold several things of their class, not told apart.
    caption: a sentence about the image; empty where there is none.
    nouns: of the caption.
    """

    image: np.ndarray
    segments: np.ndarray
    labels: tuple[int, ...]
    _: KW_ONLY
    crowds: frozenset[int] = frozenset()
    caption: str = ""
    nouns: tuple[str, ...] = ()

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) int64: every pixel's class, `UNMARKED` where there is none."""
        # OTHER and UNMARKED count from the end.
        return np.array([*self.labels, UNMARKED, UNMARKED], np.int64)[self.segments]


class AnnotatedImages(Protocol):
    """A set of annotated images, any of which can be had at any time.

    classes: what labels count.
    things: numbers of the classes that have instances; the others are stuff.
    identity: what a training on them depends on, as plain data.
    """

    @property
    def classes(self) -> tuple[ClassName, ...]: ...
    @property
    def things(self) -> frozenset[int]: ...
    @property
    def identity(self) -> Mapping[str, str | int]: ...
    def __len__(self) -> int: ...
    def annotated(self, number: int) -> AnnotatedImage: ...


@dataclass(frozen=True)
class OnlyClasses:
    """Annotated images of which only some classes are told: segments of the others are unmarked."""

    data: AnnotatedImages
    kept: tuple[int, ...]

    @classmethod
    def of(cls, data: AnnotatedImages, names: frozenset[str]) -> OnlyClasses:
        """names: any of a class's names. Raises `ConfigError` for a name that is no class's."""
        wanted = {name.casefold() for name in names}
        if not wanted:
            raise ConfigError("no class is named that is to be learnt; name at least one")
        known = {name.casefold(): number for number, item in enumerate(data.classes) for name in item.names}
        if unknown := sorted(wanted - known.keys()):
            raise ConfigError(
                f"no class '{unknown[0]}' in the data; its classes are "
                f"{', '.join(item.name for item in data.classes)}"
            )
        return cls(data, tuple(sorted({known[name] for name in wanted})))

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return tuple(self.data.classes[number] for number in self.kept)

    @property
    def hidden(self) -> tuple[ClassName, ...]:
        """The classes that are not told."""
        return tuple(item for number, item in enumerate(self.data.classes) if number not in self.kept)

    @property
    def things(self) -> frozenset[int]:
        return frozenset(place for place, number in enumerate(self.kept) if number in self.data.things)

    @property
    def identity(self) -> Mapping[str, str | int]:
        return {**self.data.identity, "seen": ", ".join(item.name for item in self.classes)}

    def __len__(self) -> int:
        return len(self.data)

    def annotated(self, number: int) -> AnnotatedImage:
        item = self.data.annotated(number)
        places = {number: place for place, number in enumerate(self.kept)}
        kept = [segment for segment, label in enumerate(item.labels) if label in places]
        table = np.full(len(item.labels) + 2, UNMARKED, np.int32)
        table[OTHER] = OTHER  # as UNMARKED, counted from the end
        table[kept] = np.arange(len(kept))
        labels = tuple(places[item.labels[segment]] for segment in kept)
        crowds = frozenset(place for place, segment in enumerate(kept) if segment in item.crowds)
        return replace(item, segments=table[item.segments], labels=labels, crowds=crowds)


@dataclass(frozen=True)
class WithNouns:
    """Annotated images, with the nouns of their captions.

    find: the nouns of a text, in the singular.
    kept, hidden: nouns of the classes that are told, and of those that are not.
    """

    data: AnnotatedImages
    find: Callable[[str], Sequence[str]]
    kept: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()

    @classmethod
    def of(cls, data: AnnotatedImages, find: Callable[[str], Sequence[str]]) -> WithNouns:
        """Nouns of classes that are not told are left out of captions."""
        hidden = data.hidden if isinstance(data, OnlyClasses) else ()
        return cls(data, find, _nouns_of(data.classes, find), _nouns_of(hidden, find))

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.data.classes

    @property
    def things(self) -> frozenset[int]:
        return self.data.things

    @property
    def identity(self) -> Mapping[str, str | int]:
        return self.data.identity

    def __len__(self) -> int:
        return len(self.data)

    def annotated(self, number: int) -> AnnotatedImage:
        item = self.data.annotated(number)
        nouns = self.find(item.caption) if item.caption else ()
        return replace(item, nouns=tuple(noun for noun in nouns if not self._is_hidden(noun.casefold())))

    def _is_hidden(self, noun: str) -> bool:
        """Whether a noun ends as a hidden class does ("house cat" with "cat"), unless it ends as a longer
        name of one that is told; or is what a hidden one is a kind of ("table" with "dining table").
        """
        kept, hidden = (_longest_ending(noun, names) for names in (self.kept, self.hidden))
        if kept or hidden:
            return hidden > kept
        return noun in {name.split()[-1] for name in self.hidden}


def _nouns_of(classes: Sequence[ClassName], find: Callable[[str], Sequence[str]]) -> frozenset[str]:
    """Their names, turned around too, for COCO says "wall brick"; and the nouns in them."""
    names = [name for item in classes for name in item.names]
    turned = [" ".join(reversed(name.split())) for name in names]
    return frozenset(noun.casefold() for name in names + turned for noun in (name, *find(name)))


def _longest_ending(noun: str, names: Collection[str]) -> int:
    """Characters of the longest of some names that a noun is, or ends with; 0 where there is none."""
    return max((len(name) for name in names if noun == name or noun.endswith(f" {name}")), default=0)


def segments_by_class(
    labels: np.ndarray, ignored: int, *, background: bool = False
) -> tuple[np.ndarray, tuple[int, ...]]:
    """A label map's classes as segments, one each, for images whose instances are not known.

    background: whether label 0 is one; classes are then counted from label 1.
    Returns (H, W) int32 segments and each one's class.
    """
    first = int(background)
    present = [int(label) for label in np.unique(labels) if label != ignored and label >= first]
    segments = np.full(labels.shape, UNMARKED, np.int32)
    if background:
        segments[labels == 0] = OTHER
    for number, label in enumerate(present):
        segments[labels == label] = number
    return segments, tuple(label - first for label in present)
