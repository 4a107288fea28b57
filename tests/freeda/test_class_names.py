from __future__ import annotations

from pathlib import Path

import pytest

from freeda.class_names import ClassName, parse_classes
from freeda.errors import ClassNamesError


def test_classes_are_parsed_from_text_list_and_file(tmp_path: Path) -> None:
    expected = (ClassName("cat", ("kitten",)), ClassName("fire truck"))
    assert parse_classes(" cat , kitten;fire  truck;") == expected
    assert parse_classes(["cat,kitten", "fire truck"]) == expected
    path = tmp_path / "classes.txt"
    path.write_text("cat, kitten\n\nfire truck\n")
    assert parse_classes(str(path)) == expected


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "no class names"),
        ("  \n ", "no class names"),
        ([], "no class names"),
        ("cat;;dog", "empty class name"),
        ("cat,;dog", "empty class name"),
        ("cat;dog;Cat", "'Cat' is given twice"),
        ("cat,kitten;dog,kitten", "'kitten' is given twice"),
        ("missing.txt", "cannot read class names"),
    ],
)
def test_bad_class_names_are_refused(classes: str | list[str], message: str) -> None:
    with pytest.raises(ClassNamesError, match=message):
        parse_classes(classes)
