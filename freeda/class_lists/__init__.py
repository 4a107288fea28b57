"""The class names of the benchmarks, with synonyms: a text file per vocabulary, one class per line."""

from __future__ import annotations

from pathlib import Path

from freeda.class_names import ClassName, parse_classes

__all__ = ["VOCABULARIES", "class_list"]

_FOLDER = Path(__file__).parent
VOCABULARIES = ("ade20k", "cityscapes", "coco-object", "coco-stuff", "context", "voc")


def class_list(vocabulary: str) -> tuple[ClassName, ...]:
    """The classes of one of `VOCABULARIES`, in the order of their numbers."""
    return parse_classes(str(_FOLDER / f"{vocabulary}.txt"))
