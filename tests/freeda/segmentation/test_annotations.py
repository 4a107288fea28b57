from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.segmentation.annotations import (
    UNMARKED,
    AnnotatedImage,
    OnlyClasses,
    WithNouns,
    segments_by_class,
)

IMAGE = np.zeros((2, 4, 3), np.uint8)
SEGMENTS = np.array([[0, 0, 1, 2], [3, 3, UNMARKED, 2]], np.int32)


@dataclass(frozen=True)
class One:
    classes = (ClassName("cat", ("kitten",)), ClassName("dog"), ClassName("grass"))
    things = frozenset({0, 1})
    identity = {"data": "one"}  # noqa: RUF012

    def __len__(self) -> int:
        return 1

    def annotated(self, number: int) -> AnnotatedImage:
        return AnnotatedImage(IMAGE, SEGMENTS, (1, 0, 2, 1))


def test_segments_of_other_classes_become_unmarked() -> None:
    some = OnlyClasses.of(One(), frozenset({"Grass", "dog"}))
    assert [item.name for item in some.classes] == ["dog", "grass"] and some.things == {0}
    item = some.annotated(0)
    assert item.labels == (0, 1, 0)
    np.testing.assert_array_equal(item.segments, [[0, 0, -1, 1], [2, 2, -1, 1]])
    assert some.identity["seen"] == "dog, grass"


def test_any_name_of_a_class_will_do_and_others_are_refused() -> None:
    assert OnlyClasses.of(One(), frozenset({"kitten"})).kept == (0,)
    with pytest.raises(ConfigError, match="no class 'cow' in the data; its classes are cat, dog, grass"):
        OnlyClasses.of(One(), frozenset({"cow"}))


@dataclass(frozen=True)
class Kinds:
    """Three classes that are told, four that are not; captions of one word per noun."""

    caption: str
    classes = tuple(map(ClassName, ("dog", "grass", "fire truck", "cat", "hot dog", "wall brick", "truck")))
    things = frozenset({0})
    identity = {"data": "kinds"}  # noqa: RUF012

    def __len__(self) -> int:
        return 1

    def annotated(self, number: int) -> AnnotatedImage:
        return replace(AnnotatedImage(IMAGE, SEGMENTS, (1, 0, 1, 1)), caption=self.caption)


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("dog house_cat cat", ("dog",)),
        ("hot_dog sheep_dog", ("sheep dog",)),  # "hot dog" is hidden, "dog" is not
        ("brick_wall wall brick wallpaper", ("wallpaper",)),  # what a hidden class is a kind of
        ("truck fire_truck red_truck", ("fire truck",)),
        ("Cat meadow", ("meadow",)),
    ],
)
def test_nouns_of_classes_that_are_not_told_are_left_out(caption: str, nouns: tuple[str, ...]) -> None:
    """So that nothing of them is learnt from captions either."""

    compounds = ("fire truck", "truck fire", "hot dog", "dog hot", "brick wall", "wall brick")

    def find(text: str) -> list[str]:
        return [text] if text in compounds else [word.replace("_", " ") for word in text.split()]

    some = OnlyClasses.of(Kinds(caption), frozenset({"dog", "grass", "fire truck"}))
    assert WithNouns.of(some, find).annotated(0).nouns == nouns
    assert WithNouns.of(Kinds(caption), find).annotated(0).nouns == tuple(find(caption))


def test_labels_without_instances_are_a_segment_per_class() -> None:
    segments, labels = segments_by_class(np.array([[4, 4, 255], [7, 255, 4]]), 255)
    assert labels == (4, 7)
    np.testing.assert_array_equal(segments, [[0, 0, -1], [1, -1, 0]])
