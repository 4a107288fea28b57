"""Data sets in COCO's panoptic format: a JSON file, a folder of PNG maps and a folder of images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from freeda.class_names import ClassName
from freeda.errors import DatasetError, reason
from freeda.evaluation.layouts import IGNORED
from freeda.files import file_digest
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage
from freeda.segmentation.images import IMAGE_FORMATS, ImageLike, read_image

__all__ = ["CocoPanopticDataset", "find_panoptic"]

_PREFIX = "panoptic_"


@dataclass(frozen=True)
class CocoPanopticDataset:
    """`annotations/panoptic_NAME.json`, with `annotations/panoptic_NAME/*.png` and `NAME/*.jpg`.

    listing: the JSON file. content: of it.
    """

    listing: Path
    images: Path
    content: Mapping[str, Any]

    background = False

    @classmethod
    def open(cls, listing: Path) -> CocoPanopticDataset:
        """Raises `DatasetError` for a file that is missing, damaged or not panoptic."""
        try:
            content = json.loads(listing.read_text(encoding="utf-8"))
            names = {item["id"]: item["file_name"] for item in content["images"]}
            for item in content["annotations"]:
                item["image"] = names[item["image_id"]]
                _ = item["file_name"], [(one["id"], one["category_id"]) for one in item["segments_info"]]
            _ = [(item["id"], item["name"], item["isthing"]) for item in content["categories"]]
        except OSError as error:
            raise DatasetError(f"'{listing}' cannot be read: {reason(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"'{listing}' is no panoptic annotation of COCO's ({type(error).__name__}: {error})"
            ) from error
        if len(content["categories"]) > IGNORED:
            raise DatasetError(
                f"'{listing}' has {len(content['categories'])} categories; {IGNORED} at most can be evaluated"
            )
        if not content["categories"]:
            raise DatasetError(f"'{listing}' lists no category")
        if not content["annotations"]:
            raise DatasetError(f"'{listing}' lists no image")
        _require_unique(listing, "categories", [item["name"].casefold() for item in content["categories"]])
        _require_unique(listing, "images", [_stem(item["image"]) for item in content["annotations"]])
        return cls(listing, _find_images(listing, content["annotations"][0]["image"]), content)

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:
        """By their plain names, but for those that would then be alike."""
        given = [item["name"] for item in self.content["categories"]]
        often = Counter(_plain(name).casefold() for name in given)
        return tuple(
            ClassName(_plain(name) if often[_plain(name).casefold()] == 1 else name) for name in given
        )

    @cached_property
    def things(self) -> frozenset[int]:
        return frozenset(n for n, item in enumerate(self.content["categories"]) if item["isthing"])

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {item["id"]: number for number, item in enumerate(self.content["categories"])}

    @property
    def identity(self) -> Mapping[str, str | int]:
        return {"dataset": self.listing.stem, "images": len(self), "content": self._digest}

    @cached_property
    def _digest(self) -> str:
        """Of the JSON files; wherever the data lie, they are the same."""
        files = [path for path in (self.listing, self._captions_file) if path.exists()]
        return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.content["annotations"])

    def name(self, number: int) -> str:
        return _stem(self.content["annotations"][number]["image"])

    def image(self, number: int) -> ImageLike:
        return self.images / str(self.content["annotations"][number]["image"])

    def truth(self, number: int) -> np.ndarray:
        segments, labels, _ = self._segments(number)
        table = np.array([*labels, IGNORED], np.int64)
        return table[segments]

    def annotated(self, number: int) -> AnnotatedImage:
        segments, labels, crowds = self._segments(number)
        caption = self._captions.get(self.content["annotations"][number]["image_id"], "")
        image = read_image(self.image(number))
        if image.shape[:2] != segments.shape:
            raise DatasetError(
                f"'{self.image(number)}' is {image.shape[1]} x {image.shape[0]} px, its map is "
                f"{segments.shape[1]} x {segments.shape[0]}; they belong to different images"
            )
        return AnnotatedImage(image, segments, labels, crowds=crowds, caption=caption)

    @cached_property
    def _captions(self) -> dict[int, str]:
        """All sentences about each image, from `captions_NAME.json` where that lies beside the listing."""
        path = self._captions_file
        if not path.exists():
            return {}
        found: dict[int, str] = {}
        try:
            for item in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
                before = found.get(item["image_id"])
                found[item["image_id"]] = f"{before} {item['caption']}" if before else item["caption"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"captions '{path}' cannot be read: {reason(error)}") from error
        return found

    @property
    def _captions_file(self) -> Path:
        return self.listing.with_name(f"captions_{self.listing.stem.removeprefix(_PREFIX)}.json")

    def submitted(self, labels: np.ndarray) -> np.ndarray:
        return np.array([item["id"] for item in self.content["categories"]])[labels]

    def _segments(self, number: int) -> tuple[np.ndarray, tuple[int, ...], frozenset[int]]:
        """(H, W) segments, their labels, and which of them are crowds."""
        item = self.content["annotations"][number]
        path = self.listing.with_suffix("") / item["file_name"]
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as picture:
                stored = np.asarray(picture.convert("RGB"), np.int64)
        except (UnidentifiedImageError, OSError) as error:
            raise DatasetError(f"panoptic map '{path}' cannot be read: {error}") from error
        ids = stored[..., 0] + 256 * stored[..., 1] + 65536 * stored[..., 2]
        listed = item["segments_info"]
        segments = np.full(ids.shape, UNMARKED, np.int32)
        for place, one in enumerate(listed):
            segments[ids == one["id"]] = place
        try:
            labels = tuple(self._labels[one["category_id"]] for one in listed)
        except KeyError as error:
            raise DatasetError(f"'{self.listing}' has a segment of category {error}, not listed") from error
        return segments, labels, frozenset(n for n, one in enumerate(listed) if one.get("iscrowd"))


def find_panoptic(path: Path) -> Path | None:
    """The JSON file that a path names or a folder holds; None where there is none.

    Raises `DatasetError` for a folder with several.
    """
    if path.is_file():
        return path if path.suffix == ".json" else None
    found = sorted([*path.glob(f"{_PREFIX}*.json"), *(path / "annotations").glob(f"{_PREFIX}*.json")])
    if len(found) > 1:
        listed = ", ".join(str(item) for item in found)
        raise DatasetError(f"'{path}' holds several panoptic annotations ({listed}); name one of them")
    return found[0] if found else None


def _find_images(listing: Path, first: str) -> Path:
    """The folder that holds the images, beside the annotations or one folder up."""
    split = listing.stem.removeprefix(_PREFIX)
    tried = [base / name for base in (listing.parent, listing.parent.parent) for name in (split, "images")]
    for folder in tried:
        if (folder / first).is_file():
            return folder
    looked = ", ".join(f"'{folder}'" for folder in tried)
    raise DatasetError(f"no image '{first}' in {looked}; put the images into one of them")


def _stem(file_name: str) -> str:
    return Path(file_name).with_suffix("").as_posix()


def _require_unique(listing: Path, what: str, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"'{listing}' lists {count} {what} named '{name}'; rename all but one")


def _plain(name: str) -> str:
    """COCO's names of stuff without their suffixes: "wall-other-merged" is "wall"."""
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.removesuffix(suffix)
    return name.replace("-", " ")
