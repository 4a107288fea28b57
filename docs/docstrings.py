"""For the API pages: lines of docstrings such as "labels: (H, W) int32." become items of a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"([a-zA-Z_][\w.]*(?:, [a-zA-Z_][\w.]*)*): (.+)")


class Items(griffe.Extension):
    """Named by `mkdocs.yml`."""

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring with its named values as a list; what is indented below one belongs to it."""
    lines: list[str] = []
    in_item = False
    for line in text.splitlines():
        found = _ITEM.fullmatch(line)
        if found:
            lines += [*([] if in_item else [""]), f"- `{found[1]}`: {found[2]}"]
            in_item = True
        elif in_item and line and not line.startswith(" "):
            lines += ["", line]
            in_item = False
        else:
            lines.append(line)
    return "\n".join(lines)
