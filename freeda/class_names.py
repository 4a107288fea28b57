"""Class names as users write them: "cat,kitten; dog; grass"."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freeda.errors import ClassNamesError, reason

__all__ = [
    "BACKGROUND",
    "MAX_CLASSES",
    "ClassName",
    "Classes",
    "parse_classes",
    "shortened",
    "without_background",
]

MAX_CLASSES = 65_534
"""Besides a background and the number of undecided pixels."""
_MAX_NAME = 500
_SHOWN = 60
_OTHER_FILES = (".csv", ".tsv", ".json", ".yaml", ".yml", ".xlsx", ".parquet", ".md")
BACKGROUND = "background"
"""Name of label 0, where pixels of none of the classes have a label of their own."""


@dataclass(frozen=True)
class ClassName:
    """A class to segment: the name that is shown, and its synonyms."""

    name: str
    synonyms: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names the class is looked up by, the shown one first."""
        return (self.name, *self.synonyms)


Classes = str | Sequence[str] | Sequence[ClassName]
"""Class names in any form that `parse_classes` takes."""


def parse_classes(classes: Classes) -> tuple[ClassName, ...]:
    """Class names from "cat,kitten; dog", a list of such entries, or the path of a `.txt` file.

    `;` or a line break separates classes, `,` the synonyms of one class. Names that are parsed already are
    checked and returned. Raises `ClassNamesError` for an empty list, an empty name, or a name that stands for
    two classes.
    """
    entries = _entries(classes)
    parsed = tuple(item if isinstance(item, ClassName) else _parse_entry(item) for item in entries)
    if not parsed:
        raise ClassNamesError('no class names given; write them as "cat,kitten; dog; grass"')
    if len(parsed) > MAX_CLASSES:
        raise ClassNamesError(
            f"{len(parsed):,} classes; label files of 16 bits hold {MAX_CLASSES:,} at most, split the list"
        )
    seen: dict[str, str] = {}
    for item in parsed:
        for name in item.names:
            if not name.strip():
                raise ClassNamesError(f"a name of class '{shortened(item.name)}' is empty; leave it out")
            if name.casefold() in seen:
                raise ClassNamesError(
                    f"class name '{shortened(name)}' is given twice (under "
                    f"'{shortened(seen[name.casefold()])}' and '{shortened(item.name)}'); name it once"
                )
            seen[name.casefold()] = item.name
    return parsed


def shortened(name: str) -> str:
    """A name as messages show it: of a very long one, its beginning."""
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def without_background(classes: tuple[ClassName, ...]) -> tuple[ClassName, ...]:
    """The same classes; raises `ClassNamesError` where one is named "background" itself."""
    if any(item.name.casefold() == BACKGROUND for item in classes):
        raise ClassNamesError(
            "class 'background' is named, but a background was asked for as well; drop one of the two"
        )
    return classes


def _entries(classes: Classes) -> list[str | ClassName]:
    if not isinstance(classes, str):
        return [
            entry
            for item in classes
            for entry in ([item] if isinstance(item, ClassName) else item.rstrip(";").split(";"))
        ]
    if classes.lower().endswith(_OTHER_FILES):
        raise ClassNamesError(
            f"'{shortened(classes)}' is no .txt file; write one class per line into a .txt file"
        )
    text = _read(Path(classes)) if classes.endswith(".txt") else classes
    return [entry for line in text.splitlines() for entry in line.rstrip(";").split(";") if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClassNamesError(f"cannot read class names from '{path}': {reason(error)}") from error


def _parse_entry(entry: str) -> ClassName:
    names = [unicodedata.normalize("NFC", " ".join(name.split())) for name in entry.split(",")]
    if not all(names):
        raise ClassNamesError(
            f"empty class name in '{shortened(entry.strip())}'; remove the stray ',' or ';'"
        )
    for name in names:
        if len(name) > _MAX_NAME:
            raise ClassNamesError(
                f"class name '{shortened(name)}' has {len(name):,} characters; {_MAX_NAME} at most"
            )
    return ClassName(names[0], tuple(names[1:]))
