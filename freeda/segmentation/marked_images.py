"""Images on which somebody has marked things and named them: by masks, COCO annotations or Label Studio."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

from freeda.class_names import ClassName
from freeda.errors import ConfigError, DatasetError, FreedaError, ImageError, reason
from freeda.records import Reject
from freeda.segmentation.images import IMAGE_ENDINGS, read_image
from freeda.segmentation.outlines import box_mask, coco_mask, polygon_mask, unpacked_runs

__all__ = ["Mark", "MarkedImage", "from_coco", "from_label_studio", "from_masks"]

_UPLOADED = re.compile("^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded to it."""


@dataclass(frozen=True)
class Mark:
    """Something in an image. name: what it is. mask: (H, W) bool."""

    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class MarkedImage:
    """An image with what is marked on it.

    name: the image's, as results tell it. pixels: (H, W, 3) uint8 RGB.
    """

    name: str
    pixels: np.ndarray
    marks: tuple[Mark, ...]


def from_masks(
    images: Path, masks: Path, classes: Sequence[ClassName], *, ignored: int = 255
) -> Iterator[MarkedImage | Reject]:
    """Images of a folder, each with a PNG of class numbers of its name in another folder.

    classes: their order is that of the numbers, from 0. ignored: the number of pixels without a class.
    Raises `DatasetError`. An image that cannot be used is a reject.
    """
    found = _images(images)
    if not any((masks / f"{stem}.png").is_file() for stem in found):
        raise DatasetError(
            f"'{masks}' has no mask for any image in '{images}'; expected {next(iter(found))}.png, and so on"
        )
    for stem, path in found.items():
        yield _tried(path.name, path, partial(_numbered, masks / f"{stem}.png", classes, ignored))


def _numbered(path: Path, classes: Sequence[ClassName], ignored: int, size: tuple[int, int]) -> list[Mark]:
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            numbers = np.asarray(opened)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DatasetError(f"no mask: {reason(error)}") from error
    if numbers.ndim != 2 or numbers.dtype.kind not in "bui":
        raise DatasetError("the mask is a picture in colours; expected a PNG of class numbers")
    if numbers.shape != size:
        raise DatasetError(
            f"the mask is {numbers.shape[1]} x {numbers.shape[0]} px, the image {size[1]} x {size[0]}"
        )
    present = [int(number) for number in np.unique(numbers) if number != ignored]
    if strange := [number for number in present if not 0 <= number < len(classes)]:
        raise DatasetError(f"the mask holds {strange[0]}; there are classes 0 .. {len(classes) - 1}")
    return [Mark(classes[number].name, numbers == number) for number in present]


def from_coco(file: Path, images: Path) -> Iterator[MarkedImage | Reject]:
    """Annotations of a COCO file: polygons, run lengths, or where there are neither, boxes.

    Raises `DatasetError`, and `ConfigError` without pycocotools. Crowds, and images that cannot be used, are
    rejects.
    """
    document = _parsed(file)
    try:
        names = {item["id"]: str(item["name"]) for item in document["categories"]}
        files = {item["id"]: str(item["file_name"]) for item in document["images"]}
        held: dict[Any, list[Mapping[str, Any]]] = {number: [] for number in files}
        for item in document["annotations"]:
            held[item["image_id"]].append({**item, "name": names[item["category_id"]]})
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"'{file}' is no COCO file: {reason(error)} is missing or of another kind"
        ) from error
    for number, name in files.items():
        crowds = [item for item in held[number] if item.get("iscrowd")]
        yield from (Reject(caption_id=name, caption="", noun=item["name"], reason="crowd") for item in crowds)
        marked = [item for item in held[number] if not item.get("iscrowd")]
        if _leads_out(name):
            yield Reject(caption_id=name, caption="", noun="", reason="its path leads out of the folder")
        elif marked:
            yield _tried(name, images / name, partial(_coco_marks, marked))


def _coco_marks(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Mark]:
    return [
        Mark(item["name"], coco_mask(outline, size) if outline else box_mask(item["bbox"], size))
        for item in annotations
        for outline in (item.get("segmentation"),)
    ]


def from_label_studio(file: Path, images: Path) -> Iterator[MarkedImage | Reject]:
    """Tasks of a JSON export of Label Studio: brush, polygon and rectangle labels of the latest annotation.

    images: folder of the tasks' images, found by their file names. Raises `DatasetError`. Tasks that cannot
    be used are rejects.
    """
    tasks = _parsed(file)
    if not isinstance(tasks, list):
        raise DatasetError(
            f"'{file}' is no export of Label Studio; expected a list of tasks (JSON, not JSON-MIN)"
        )
    for task in tasks:
        try:
            name = _file_name(task)
            annotations = [item for item in task["annotations"] if not item.get("was_cancelled")]
            regions = annotations[-1]["result"] if annotations else []
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DatasetError(f"'{file}' holds a task without {reason(error)}; export it as JSON") from error
        path = images / name
        if not path.is_file():
            path = images / _UPLOADED.sub("", name)
        yield _tried(path.name, path, partial(_regions, regions))


def _leads_out(name: str) -> bool:
    """Whether a file's name, as somebody's annotations give it, is a path to another folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _file_name(task: Mapping[str, Any]) -> str:
    """Of the first value of a task's data that is an image's."""
    for value in task["data"].values():
        parts = urlsplit(str(value))
        where = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
        if PurePosixPath(where).suffix.lower() in IMAGE_ENDINGS:
            return PurePosixPath(where).name
    raise KeyError("image")


def _regions(items: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Mark]:
    return [_region(item, size) for item in items]


def _region(item: Mapping[str, Any], size: tuple[int, int]) -> Mark:
    kind, value = item["type"], item["value"]
    if kind not in ("brushlabels", "polygonlabels", "rectanglelabels"):
        raise DatasetError(f"a region is of type {kind}; expected brush, polygon or rectangle labels")
    name, (height, width) = value[kind][0], size
    if kind == "brushlabels":
        return Mark(name, unpacked_runs(value["rle"], size))
    scale = np.array([width, height]) / 100
    if kind == "polygonlabels":
        return Mark(name, polygon_mask([np.asarray(value["points"], float).reshape(-1, 2) * scale], size))
    if value.get("rotation"):
        raise DatasetError("a rectangle is turned; draw it as a polygon")
    left, top = np.array([value["x"], value["y"]]) * scale
    across, down = np.array([value["width"], value["height"]]) * scale
    return Mark(name, box_mask((left, top, across, down), size))


def _tried(name: str, path: Path, marks: Callable[[tuple[int, int]], list[Mark]]) -> MarkedImage | Reject:
    """An image with its marks, or why there is none."""
    try:
        pixels = read_image(path)
        found = tuple(marks((pixels.shape[0], pixels.shape[1])))
    except ConfigError:
        raise
    except (ImageError, DatasetError) as error:
        return Reject(caption_id=name, caption="", noun="", reason=str(error))
    except (KeyError, TypeError, ValueError, IndexError, FreedaError) as error:
        return Reject(caption_id=name, caption="", noun="", reason=f"damaged annotation: {reason(error)}")
    return MarkedImage(name, pixels, found)


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"no folder '{folder}'; expected one of images")
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_ENDINGS]
    found = {path.stem: path for path in paths}
    if len(found) < len(paths):
        twice = next(path for path in paths if found[path.stem] != path)
        raise DatasetError(
            f"'{twice}' and '{found[twice.stem].name}' would have the same mask; rename one of them"
        )
    if not found:
        raise DatasetError(f"no image in '{folder}'; expected {', '.join(sorted(IMAGE_ENDINGS))}")
    return found


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"'{file}' cannot be read as JSON: {reason(error)}") from error
