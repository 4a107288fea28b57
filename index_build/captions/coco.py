"""Captions from COCO's annotation files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freeda.errors import CaptionsError
from freeda.records import Caption

__all__ = ["captions_from_coco"]


def captions_from_coco(path: Path) -> Iterator[Caption]:
    """The captions of `captions_train2017.json` and its like, with their annotation ids, in order.

    Raises `CaptionsError`, before the first caption, for a file that is not of that form.
    """
    annotations = _read(path)
    wrong = [number for number, item in enumerate(annotations) if not _is_caption(item)]
    if wrong:
        raise CaptionsError(
            f"annotation {wrong[0]} of '{path}' has no id and caption ({len(wrong)} such in all); expected "
            f"COCO's captions file, such as captions_train2017.json, not its instances"
        )
    return (Caption(id=str(item["id"]), text=" ".join(item["caption"].split())) for item in annotations)


def _read(path: Path) -> list[Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaptionsError(f"'{path}' is no readable JSON file: {error}") from error
    annotations = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise CaptionsError(f"'{path}' has no list of annotations; expected COCO's captions file")
    return annotations


def _is_caption(item: Any) -> bool:
    return isinstance(item, dict) and "id" in item and isinstance(item.get("caption"), str)
