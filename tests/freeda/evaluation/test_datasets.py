from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from freeda.errors import DatasetError
from freeda.evaluation.datasets import DATASETS, label_names, open_dataset
from freeda.segmentation.images import read_image
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS

VOC = "VOCdevkit/VOC2012"
CONTEXT = "VOCdevkit/VOC2010"
ADE = "ade/ADEChallengeData2016"
CITY = "aachen/aachen_000000_000019"


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(path)


def write_labels(path: Path, stored: list[int], *, palette: bool = False) -> None:
    """A label file of 2 x 4 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(stored, np.uint8).reshape(2, 4))
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(0, 255, 768, dtype=np.uint8).tobytes())
    picture.save(path)


def write_list(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


# name, image, labels, listing, numbers stored, labels expected, classes
LAYOUTS = [
    (
        "voc20",
        f"{VOC}/JPEGImages/2007_000033.jpg",
        f"{VOC}/SegmentationClass/2007_000033.png",
        f"{VOC}/ImageSets/Segmentation/val.txt",
        [0, 1, 2, 20, 255, 15, 0, 8],
        [255, 0, 1, 19, 255, 14, 255, 7],
        20,
    ),
    (
        "voc21",
        f"{VOC}/JPEGImages/2007_000033.jpg",
        f"{VOC}/SegmentationClass/2007_000033.png",
        f"{VOC}/ImageSets/Segmentation/val.txt",
        [0, 1, 2, 20, 255, 15, 0, 8],
        [0, 1, 2, 20, 255, 15, 0, 8],
        21,
    ),
    (
        "context59",
        f"{CONTEXT}/JPEGImages/2008_000002.jpg",
        f"{CONTEXT}/SegmentationClassContext/2008_000002.png",
        f"{CONTEXT}/ImageSets/SegmentationContext/val.txt",
        [0, 1, 59, 30, 0, 0, 2, 2],
        [255, 0, 58, 29, 255, 255, 1, 1],
        59,
    ),
    (
        "context60",
        f"{CONTEXT}/JPEGImages/2008_000002.jpg",
        f"{CONTEXT}/SegmentationClassContext/2008_000002.png",
        f"{CONTEXT}/ImageSets/SegmentationContext/val.txt",
        [0, 1, 59, 30, 0, 0, 2, 2],
        [0, 1, 59, 30, 0, 0, 2, 2],
        60,
    ),
    (
        "coco-stuff",
        "coco_stuff164k/images/val2017/000000000139.jpg",
        "coco_stuff164k/annotations/val2017/000000000139_labelTrainIds.png",
        None,
        [0, 79, 80, 170, 255, 1, 2, 3],
        [0, 79, 80, 170, 255, 1, 2, 3],
        171,
    ),
    (
        "coco-object",
        "coco_stuff164k/images/val2017/000000000139.jpg",
        "coco_stuff164k/annotations/val2017/000000000139_instanceTrainIds.png",
        None,
        [0, 80, 1, 0, 255, 1, 2, 3],
        [0, 80, 1, 0, 255, 1, 2, 3],
        81,
    ),
    (
        "cityscapes",
        f"cityscapes/leftImg8bit/val/{CITY}_leftImg8bit.png",
        f"cityscapes/gtFine/val/{CITY}_gtFine_labelTrainIds.png",
        None,
        [0, 18, 255, 10, 255, 255, 1, 2],
        [0, 18, 255, 10, 255, 255, 1, 2],
        19,
    ),
    (
        "ade20k",
        f"{ADE}/images/validation/ADE_val_00000001.jpg",
        f"{ADE}/annotations/validation/ADE_val_00000001.png",
        None,
        [0, 1, 150, 2, 0, 3, 4, 5],
        [255, 0, 149, 1, 255, 2, 3, 4],
        150,
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize("palette", [False, True])
def test_every_layout_is_read_as_it_lies(tmp_path: Path, layout: tuple, palette: bool) -> None:
    name, image, labels, listing, stored, expected, count = layout
    write_image(tmp_path / image)
    write_labels(tmp_path / labels, stored, palette=palette)
    if listing:
        write_list(tmp_path / listing, Path(image).stem)
    dataset = open_dataset(name, tmp_path)
    assert len(dataset) == 1
    np.testing.assert_array_equal(dataset.truth(0), np.array(expected).reshape(2, 4))
    assert dataset.image(0) == tmp_path / image
    assert len(label_names(dataset)) == count
    own_folder = tmp_path / DATASETS[name].home
    np.testing.assert_array_equal(open_dataset(name, own_folder).truth(0), dataset.truth(0))


def test_cityscapes_names_keep_their_city(tmp_path: Path) -> None:
    write_image(tmp_path / f"leftImg8bit/val/{CITY}_leftImg8bit.png")
    write_labels(tmp_path / f"gtFine/val/{CITY}_gtFine_labelTrainIds.png", [0] * 8)
    assert open_dataset("cityscapes", tmp_path).name(0) == CITY


@pytest.mark.parametrize(
    ("name", "labels", "ids"),
    [
        ("voc20", [0, 19], [1, 20]),
        ("voc21", [0, 20], [0, 20]),
        ("context59", [0, 58], [1, 59]),
        ("ade20k", [0, 149], [1, 150]),
        ("cityscapes", [0, 8, 13, 18], [7, 21, 26, 33]),  # road, vegetation, car, bicycle
        ("coco-stuff", [0, 10, 11, 79, 80, 170], [1, 11, 13, 90, 92, 182]),  # COCO's ids leave gaps
        ("coco-object", [0, 1, 11, 12, 80], [0, 1, 11, 13, 90]),
    ],
)
def test_predictions_go_back_to_the_data_set_s_ids(
    tmp_path: Path, name: str, labels: list[int], ids: list[int]
) -> None:
    _, image, label_file, listing, stored, _, _ = next(item for item in LAYOUTS if item[0] == name)
    write_image(tmp_path / image)
    write_labels(tmp_path / label_file, stored)
    if listing:
        write_list(tmp_path / listing, Path(image).stem)
    np.testing.assert_array_equal(open_dataset(name, tmp_path).submitted(np.array(labels)), ids)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("voc20", 14, "person"),
        ("context59", 36, "person"),
        ("coco-stuff", 170, "wood"),
        ("coco-stuff", 80, "banner"),
        ("coco-object", 1, "person"),
        ("cityscapes", 11, "person"),
        ("ade20k", 12, "person"),
        ("ade20k", 149, "flag"),
    ],
)
def test_classes_are_in_the_order_of_the_ids(tmp_path: Path, name: str, label: int, expected: str) -> None:
    _, image, label_file, listing, stored, _, _ = next(item for item in LAYOUTS if item[0] == name)
    write_image(tmp_path / image)
    write_labels(tmp_path / label_file, stored)
    if listing:
        write_list(tmp_path / listing, Path(image).stem)
    assert label_names(open_dataset(name, tmp_path))[label] == expected


def test_a_label_outside_the_data_set_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / LAYOUTS[-1][1])
    write_labels(tmp_path / LAYOUTS[-1][2], [0, 1, 151, 2, 0, 3, 4, 5])
    with pytest.raises(DatasetError, match=r"holds 151; ade20k has 1 \.\. 150 and 0, 255 for ignored"):
        open_dataset("ade20k", tmp_path).truth(0)


def test_coloured_label_files_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / LAYOUTS[-1][1])
    write_image(tmp_path / LAYOUTS[-1][2])
    with pytest.raises(DatasetError, match="expected one channel of label numbers"):
        open_dataset("ade20k", tmp_path).truth(0)


def test_missing_files_are_counted_before_work_starts(tmp_path: Path) -> None:
    write_image(tmp_path / f"{VOC}/JPEGImages/a.jpg")
    write_list(tmp_path / f"{VOC}/ImageSets/Segmentation/val.txt", "a", "b")
    with pytest.raises(DatasetError, match=r"3 of 4 files are missing, first '.*SegmentationClass/a\.png'"):
        open_dataset("voc20", tmp_path)


def test_a_data_set_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no '.*images/validation' and '.*ADEChallengeData2016/images"):
        open_dataset("ade20k", tmp_path)
    with pytest.raises(DatasetError, match="expected one of toyworld, toyworld-things, toyworld-ink, voc20"):
        open_dataset("vok20", tmp_path)


def test_a_folder_of_one_s_own(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"classes\.txt'; write one class per line"):
        open_dataset(str(tmp_path), None)
    (tmp_path / "classes.txt").write_text("background\ncat,kitten\ndog\n")
    write_image(tmp_path / "images" / "one.jpg")
    write_labels(tmp_path / "labels" / "one.png", [0, 1, 2, 255, 0, 0, 0, 0])
    dataset = open_dataset(str(tmp_path), None)
    assert dataset.background
    assert [item.names for item in dataset.classes] == [("cat", "kitten"), ("dog",)]
    np.testing.assert_array_equal(dataset.truth(0).ravel()[:4], [0, 1, 2, 255])


def test_moved_labels_are_the_same_and_changed_ones_are_not(tmp_path: Path) -> None:
    """Whatever their times are; and though a changed file may be as large as before."""
    home = tmp_path / "home"
    write_image(home / "images" / "a.png")
    write_labels(home / "labels" / "a.png", [0, 1] * 4)
    write_list(home / "classes.txt", "cat", "dog")
    before = open_dataset(str(home)).identity
    (tmp_path / "moved").mkdir()
    home = home.rename(tmp_path / "moved" / "home")
    os.utime(home / "labels" / "a.png", (1, 1))
    assert open_dataset(str(home)).identity == before
    size = (home / "labels" / "a.png").stat().st_size
    write_labels(home / "labels" / "a.png", [1, 0] * 4)
    assert (home / "labels" / "a.png").stat().st_size == size
    assert open_dataset(str(home)).identity != before


def test_a_folder_that_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for ending in ("jpg", "png"):
        write_image(tmp_path / "images" / f"one.{ending}")
    with pytest.raises(DatasetError, match="share a name"):
        open_dataset(str(tmp_path), None)
    (tmp_path / "classes.txt").write_text("".join(f"class {n}\n" for n in range(256)))
    with pytest.raises(DatasetError, match="names 256 classes"):
        open_dataset(str(tmp_path), None)
    with pytest.raises(DatasetError, match="no meaning for 'toyworld'"):
        open_dataset("toyworld", tmp_path)


def test_the_toy_world_is_a_data_set() -> None:
    dataset = open_dataset("toyworld", None)
    scene = draw_scene(scene_rng("evaluation", 7), 128)
    assert len(dataset) == 300
    np.testing.assert_array_equal(dataset.image(7), scene.image)
    np.testing.assert_array_equal(dataset.truth(7), scene.labels)
    assert label_names(dataset) == tuple(kind.name for kind in KINDS)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("labels_turned", [True, False])
def test_labels_of_photographs_that_are_stored_turned(
    orientation: int, labels_turned: bool, tmp_path: Path
) -> None:
    """The labels are of the photograph as it is shown, whichever way they are stored."""
    upright = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7) % 3
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = next(
        turned
        for turned in (_turned(upright, number) for number in range(1, 9))
        if np.array_equal(ImageOps.exif_transpose(_with(turned, exif, tmp_path)), upright)
    )
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(stored * 80).save(tmp_path / "images" / "a.png", exif=exif)
    Image.fromarray(upright if labels_turned else stored).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    dataset = open_dataset(str(tmp_path), None)
    if orientation < 5:
        with pytest.raises(DatasetError, match=f"EXIF orientation {orientation}.*store the image upright"):
            dataset.truth(0)
        return
    np.testing.assert_array_equal(dataset.truth(0), upright)
    np.testing.assert_array_equal(read_image(dataset.image(0))[..., 0], upright * 80)


def _turned(array: np.ndarray, number: int) -> np.ndarray:
    """The eight ways to turn and mirror a picture."""
    return np.rot90(array if number < 5 else array.T, number)


def _with(array: np.ndarray, exif: Image.Exif, folder: Path) -> Image.Image:
    Image.fromarray(np.ascontiguousarray(array)).save(folder / "turned.png", exif=exif)
    return Image.open(folder / "turned.png")
