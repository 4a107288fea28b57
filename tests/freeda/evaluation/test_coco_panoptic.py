"""COCO's panoptic format, read from a folder that the test writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freeda.errors import DatasetError
from freeda.evaluation.coco_panoptic import CocoPanopticDataset
from freeda.evaluation.datasets import open_dataset
from freeda.evaluation.layouts import IGNORED

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 9, "name": "wall-other-merged", "isthing": 0},
    {"id": 200, "name": "door-stuff", "isthing": 0},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image of two cats, a crowd of cats, a wall, and a pixel of nothing."""
    (tmp_path / "annotations" / "panoptic_val").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    ids = np.full((6, 8), 70_000, np.int64)
    ids[:3, :3], ids[:3, 4:6], ids[5, 5:], ids[0, 7] = 12, 300, 5, 0
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(channels).save(tmp_path / "annotations" / "panoptic_val" / "a.png")
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / "val" / "a.jpg")
    segments = [
        {"id": 12, "category_id": 3, "iscrowd": 0},
        {"id": 300, "category_id": 3, "iscrowd": 0},
        {"id": 5, "category_id": 3, "iscrowd": 1},
        {"id": 70_000, "category_id": 9, "iscrowd": 0},
    ]
    document = {
        "images": [{"id": 77, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 77, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    (tmp_path / "annotations" / "panoptic_val.json").write_text(json.dumps(document))
    return tmp_path


def test_segments_labels_and_names_are_the_file_s(folder: Path) -> None:
    data = open_dataset(str(folder))
    assert [item.name for item in data.classes] == ["cat", "wall", "door"]
    assert data.things == {0} and len(data) == 1 and data.name(0) == "a"
    item = data.annotated(0)
    assert item.labels == (0, 0, 0, 1) and item.crowds == {2} and item.image.shape == (6, 8, 3)
    assert (item.segments[:3, :3] == 0).all() and (item.segments[:3, 4:6] == 1).all()
    assert (item.segments[5, 5:] == 2).all() and item.segments[0, 7] == -1  # crowd, nothing
    assert item.segments[4, 4] == 3
    truth = data.truth(0)
    assert truth[0, 0] == truth[0, 4] == truth[5, 6] == 0 and truth[4, 4] == 1 and truth[0, 7] == IGNORED
    np.testing.assert_array_equal(data.submitted(np.array([0, 1, 2])), [3, 9, 200])


def test_captions_beside_the_listing_are_read(folder: Path) -> None:
    assert open_dataset(str(folder)).annotated(0).caption == ""
    sentences = [{"image_id": 77, "caption": "two cats."}, {"image_id": 77, "caption": "a wall."}]
    (folder / "annotations" / "captions_val.json").write_text(json.dumps({"annotations": sentences}))
    assert open_dataset(str(folder)).annotated(0).caption == "two cats. a wall."


def test_the_json_file_can_be_named_itself(folder: Path) -> None:
    listing = folder / "annotations" / "panoptic_val.json"
    assert isinstance(open_dataset(str(listing)), CocoPanopticDataset)
    (folder / "annotations" / "panoptic_train.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"several panoptic annotations .*panoptic_train.json.*name one"):
        open_dataset(str(folder))


def test_images_in_folders_keep_their_whole_names(folder: Path) -> None:
    listing = folder / "annotations" / "panoptic_val.json"
    content = json.loads(listing.read_text())
    for name in ("x", "y"):
        (folder / "val" / name).mkdir()
        shutil.copy(folder / "val" / "a.jpg", folder / "val" / name)
    images = [{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "y/a.jpg"}]
    (one,) = content["annotations"]
    both = [{**one, "image_id": 1}, {**one, "image_id": 2}]
    listing.write_text(json.dumps({**content, "images": images, "annotations": both}))
    data = open_dataset(str(folder))
    assert [data.name(number) for number in range(2)] == ["x/a", "y/a"]
    listing.write_text(json.dumps({**content, "images": images, "annotations": [both[0], both[0]]}))
    with pytest.raises(DatasetError, match="lists 2 images named 'x/a'; rename all but one"):
        open_dataset(str(folder))


def test_categories_that_are_alike_keep_their_suffixes(folder: Path) -> None:
    listing = folder / "annotations" / "panoptic_val.json"
    content = json.loads(listing.read_text())
    more = [*CATEGORIES, {"id": 201, "name": "wall-brick", "isthing": 0}]
    more.append({"id": 202, "name": "wall-stuff", "isthing": 0})
    listing.write_text(json.dumps({**content, "categories": more}))
    names = [item.name for item in open_dataset(str(folder)).classes]
    assert names == ["cat", "wall-other-merged", "door", "wall brick", "wall-stuff"]
    more.append({"id": 203, "name": "Cat", "isthing": 0})
    listing.write_text(json.dumps({**content, "categories": more}))
    with pytest.raises(DatasetError, match="lists 2 categories named 'cat'; rename all but one"):
        open_dataset(str(folder))


def test_moved_data_are_the_same_and_changed_ones_are_not(folder: Path, tmp_path: Path) -> None:
    before = open_dataset(str(folder)).identity
    moved = tmp_path / "moved"
    shutil.copytree(folder / "annotations", moved / "annotations")
    shutil.copytree(folder / "val", moved / "val")
    assert open_dataset(str(moved)).identity == before
    sentences = [{"image_id": 77, "caption": "two cats."}]
    (moved / "annotations" / "captions_val.json").write_text(json.dumps({"annotations": sentences}))
    assert open_dataset(str(moved)).identity != before


def test_what_is_missing_or_damaged_is_told(folder: Path) -> None:
    listing = folder / "annotations" / "panoptic_val.json"
    content = json.loads(listing.read_text())
    data = open_dataset(str(folder))
    (folder / "annotations" / "panoptic_val" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="panoptic map .*a.png' cannot be read"):
        data.truth(0)
    listing.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DatasetError, match="lists no image"):
        open_dataset(str(folder))
    (one,) = content["annotations"]
    unlisted = {name: value for name, value in one.items() if name != "segments_info"}
    listing.write_text(json.dumps({**content, "annotations": [unlisted]}))
    with pytest.raises(DatasetError, match="is no panoptic annotation of COCO's .KeyError: 'segments_info'"):
        open_dataset(str(folder))
    listing.write_text(json.dumps({**content, "categories": []}))
    with pytest.raises(DatasetError, match="lists no category"):
        open_dataset(str(folder))
    listing.write_text(json.dumps({"images": []}))
    with pytest.raises(DatasetError, match="is no panoptic annotation of COCO's .KeyError: 'annotations'"):
        open_dataset(str(folder))
    listing.write_text(json.dumps(content))
    (folder / "val" / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="no image 'a.jpg' in"):
        open_dataset(str(folder))
