"""Annotated images as people have them: masks, COCO, Label Studio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freeda.class_names import parse_classes
from freeda.errors import DatasetError
from freeda.records import Reject
from freeda.segmentation.label_studio import label_studio_task
from freeda.segmentation.marked_images import MarkedImage, from_coco, from_label_studio, from_masks
from freeda.segmentation.result import Segmentation

CLASSES = parse_classes("cat, kitten; dog; grass")
SIZE = (30, 40)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate("abcdef"):
        Image.new("RGB", SIZE[::-1], (number, 20, 30)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def labels() -> np.ndarray:
    found = np.full(SIZE, 2, np.uint8)
    found[3:12, 5:20] = 0
    found[:, 36:] = 255
    return found


def test_masks_hold_numbers_of_classes(images: Path, labels: np.ndarray, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, content in (("a", labels), ("b", labels[:, :9]), ("c", labels + 1), ("d", labels)):
        Image.fromarray(content).save(masks / f"{name}.png")
    Image.fromarray(np.dstack([labels] * 3)).save(masks / "d.png")
    (masks / "e.png").write_bytes(b"no picture")
    first, *others = from_masks(images, masks, CLASSES)
    assert isinstance(first, MarkedImage) and (first.name, first.pixels.shape) == ("a.png", (*SIZE, 3))
    assert [mark.name for mark in first.marks] == ["cat", "grass"]
    for mark, number in zip(first.marks, (0, 2), strict=True):
        np.testing.assert_array_equal(mark.mask, labels == number)
    reasons = [item.reason for item in others if isinstance(item, Reject)]
    assert reasons == [
        "the mask is 9 x 30 px, the image 40 x 30",
        "the mask holds 3; there are classes 0 .. 2",
        "the mask is a picture in colours; expected a PNG of class numbers",
        f"no mask: cannot identify image file '{masks / 'e.png'}'",
        "no mask: No such file or directory",
    ]


def test_two_images_of_one_mask_are_named(images: Path, labels: np.ndarray, tmp_path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(images / "a.jpg")
    with pytest.raises(DatasetError, match="a.jpg' and 'a.png' would have the same mask; rename one"):
        list(from_masks(images, tmp_path, CLASSES))


def test_folders_without_masks_or_images_are_named(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no mask for any image in .*; expected a.png, and so on"):
        list(from_masks(images, tmp_path, CLASSES))
    with pytest.raises(DatasetError, match="no image in"):
        list(from_masks(tmp_path, tmp_path, CLASSES))
    with pytest.raises(DatasetError, match="no folder '/nowhere'"):
        list(from_masks(Path("/nowhere"), tmp_path, CLASSES))


def test_coco_s_polygons_run_lengths_and_boxes(images: Path, tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "category_id": 7, "segmentation": [[4.6, 2.6, 20.4, 2.6, 20.4, 12.4, 4.6, 12.4]]},
        {"image_id": 1, "category_id": 9, "segmentation": {"size": list(SIZE), "counts": [30, 60, 1110]}},
        {"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"image_id": 2, "category_id": 9, "bbox": [1, 2, 3, 4]},
        {"image_id": 3, "category_id": 9, "bbox": ["left", 2, 3, 4]},
    ]
    document = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "images": [
            {"id": 1, "file_name": "a.png"},
            {"id": 2, "file_name": "lost.png"},
            {"id": 3, "file_name": "c.png"},
            {"id": 4, "file_name": "d.png"},
        ],
        "annotations": annotations,
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(document))
    crowd, first, lost, damaged = from_coco(file, images)
    assert isinstance(first, MarkedImage) and [mark.name for mark in first.marks] == ["cat", "dog", "dog"]
    polygon, runs, box = (mark.mask for mark in first.marks)
    assert polygon[4:12, 6:20].all() and not polygon[:2].any() and not polygon[:, 22:].any()
    assert runs[:, 1:3].all() and runs.sum() == 60
    assert box[2:6, 1:4].all() and box.sum() == 12
    reasons = [item.reason for item in (crowd, lost, damaged) if isinstance(item, Reject)]
    assert reasons[0] == "crowd" and "lost.png" in reasons[1] and "damaged annotation" in reasons[2]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_coco_s_files_do_not_lead_out_of_the_folder(name: str, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(images.parent / "secret.png")
    document = {
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(document))
    (found,) = from_coco(tmp_path / "coco.json", images)
    assert isinstance(found, Reject) and found.reason == "its path leads out of the folder"


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"images": [], "annotations": [{}], "categories": []}']
)
def test_a_file_that_is_no_coco_file_is_named(content: str, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    file.write_text(content)
    with pytest.raises(DatasetError, match="coco.json"):
        list(from_coco(file, images))


def test_label_studio_s_brush_polygons_and_rectangles(
    images: Path, labels: np.ndarray, tmp_path: Path
) -> None:
    scores = np.ones(SIZE, np.float32)
    result = Segmentation(
        np.zeros((*SIZE, 3), np.uint8),
        labels.astype(np.int32),
        scores,
        ("cat", "dog", "grass"),
        ignore_index=255,
    )
    brush = label_studio_task(result, "/data/upload/1/0a1b2c3d-a.png")
    brush["annotations"] = brush.pop("predictions")
    points = {"points": [[12.5, 10], [50, 10], [50, 40], [12.5, 40]], "polygonlabels": ["dog"]}
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cat"]}
    ellipse = {"x": 10, "y": 20, "radiusX": 3, "radiusY": 3, "ellipselabels": ["cat"]}
    tasks = [
        brush,
        drawn("b.png", ("polygonlabels", points), ("rectanglelabels", box)),
        drawn("c.png", ("ellipselabels", ellipse)),
        drawn("d.png", ("rectanglelabels", {**box, "rotation": 20})),
        {"data": {"image": "e.png"}, "annotations": []},
        drawn("f.png", ("polygonlabels", {"points": [], "polygonlabels": ["cat"]})),
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    first, second, *others = from_label_studio(file, images)
    assert isinstance(first, MarkedImage) and first.name == "a.png"
    for mark in first.marks:
        np.testing.assert_array_equal(mark.mask, labels == {"cat": 0, "grass": 2}[mark.name])
    assert isinstance(second, MarkedImage) and [mark.name for mark in second.marks] == ["dog", "cat"]
    assert second.marks[0].mask[4:11, 6:19].all() and second.marks[0].mask.sum() <= 10 * 17
    assert second.marks[1].mask[6:18, 4:16].all() and second.marks[1].mask.sum() == 12 * 12
    ellipse_told, turned, empty, damaged = others
    assert isinstance(damaged, Reject) and "damaged annotation: a polygon of fewer" in damaged.reason
    assert isinstance(ellipse_told, Reject) and "type ellipselabels" in ellipse_told.reason
    assert isinstance(turned, Reject) and "is turned; draw it as a polygon" in turned.reason
    assert isinstance(empty, MarkedImage) and empty.marks == ()


def drawn(name: str, *regions: tuple[str, dict]) -> dict:
    result = [{"type": kind, "value": value} for kind, value in regions]
    return {"data": {"image": f"/data/local-files/?d=photos/{name}"}, "annotations": [{"result": result}]}
