from __future__ import annotations

import json
from pathlib import Path

import pytest

from freeda.errors import CaptionsError
from index_build.captions.coco import captions_from_coco
from index_build.captions.reader import open_captions
from index_build.captions.writing import write_captions
from index_build.config import CaptionColumns


def test_coco_captions_become_a_parquet_that_a_build_reads(tmp_path: Path) -> None:
    source = tmp_path / "captions_val.json"
    annotations = [
        {"id": 48, "image_id": 1, "caption": "A very  clean bathroom.\n"},
        {"id": 7, "image_id": 1, "caption": "Un café ☕ au lait"},
    ]
    source.write_text(json.dumps({"images": [{"id": 1}], "annotations": annotations}))
    assert write_captions(captions_from_coco(source), tmp_path / "new" / "c.parquet") == 2
    read = list(open_captions(str(tmp_path / "new" / "c.parquet"), CaptionColumns()))
    assert [(item.id, item.text, item.nouns) for item in read] == [
        ("48", "A very clean bathroom.", None),
        ("7", "Un café ☕ au lait", None),
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.parquet"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no readable JSON"),
        ("[]", "no list of annotations"),
        ('{"annotations": []}', "no list of annotations"),
        (
            '{"annotations": [{"id": 1, "caption": "a"}, {"id": 2, "bbox": []}]}',
            "annotation 1 .*not its",
        ),
    ],
)
def test_other_files_are_refused_at_once(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(CaptionsError, match=message):
        captions_from_coco(path)
