"""Data sets on disk: an image file and a label file per image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from freeda.class_lists import class_list
from freeda.class_names import BACKGROUND, ClassName, parse_classes
from freeda.errors import DatasetError
from freeda.evaluation.layouts import IGNORED, Layout
from freeda.segmentation.annotations import AnnotatedImage, segments_by_class
from freeda.segmentation.images import IMAGE_ENDINGS, IMAGE_FORMATS, ImageLike, read_image

__all__ = ["FolderDataset", "open_layout", "open_own"]

_END = 64
"""Bytes: more than what follows the checksum."""


@dataclass(frozen=True)
class FolderDataset:
    """Image and label files.

    home: the data set's folder.
    files: image path and label path, by name.
    values, ignored: as in `Layout`.
    submission: each label's number on the evaluation servers; empty where it is the same.
    """

    title: str
    home: Path
    files: Mapping[str, tuple[Path, Path]]
    classes: tuple[ClassName, ...]
    background: bool
    values: tuple[int, ...]
    ignored: tuple[int, ...] = (IGNORED,)
    submission: tuple[int, ...] = field(default=())

    @cached_property
    def _names(self) -> list[str]:
        return list(self.files)

    @property
    def identity(self) -> Mapping[str, str | int]:
        return {"dataset": self.title, "images": len(self), "content": self._digest}

    @cached_property
    def _digest(self) -> str:
        """Of the class names and of every label file's name, size and end, where a PNG keeps a checksum of
        its pixels; wherever the data lie, and whenever they were copied, it is the same.
        """
        digest = hashlib.sha256(repr([item.names for item in self.classes]).encode())
        for name, (_, labels) in self.files.items():
            size = labels.stat().st_size
            with labels.open("rb") as file:
                file.seek(max(0, size - _END))
                digest.update(f"{name} {size} ".encode() + file.read())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return self._names[number]

    def image(self, number: int) -> ImageLike:
        return self.files[self._names[number]][0]

    def truth(self, number: int) -> np.ndarray:
        image, path = self.files[self._names[number]]
        stored = _upright(_read_labels(path), image, path)
        labels = self._lookup[np.minimum(stored, len(self._lookup) - 1)]
        if (labels < 0).any():
            found = int(stored[labels < 0].min())
            raise DatasetError(
                f"label file '{path}' holds {found}; {self.title} has {min(self.values)} .. "
                f"{max(self.values)} and {', '.join(map(str, self.ignored))} for ignored pixels; "
                f"is it another data set's, or in another order of ids?"
            )
        return np.asarray(labels)

    @cached_property
    def _lookup(self) -> np.ndarray:
        """Stored number to label; -1 for what must not occur, in the last place too."""
        table = np.full(65537, -1, np.int64)
        table[list(self.ignored)] = IGNORED
        table[list(self.values)] = np.arange(len(self.values))
        return table

    @property
    def things(self) -> frozenset[int]:
        """None: instances are not told apart."""
        return frozenset()

    def annotated(self, number: int) -> AnnotatedImage:
        image, labels = read_image(self.image(number)), self.truth(number)
        if image.shape[:2] != labels.shape:
            raise DatasetError(
                f"'{self.image(number)}' is {image.shape[1]} x {image.shape[0]} px, its labels are "
                f"{labels.shape[1]} x {labels.shape[0]}; they belong to different images"
            )
        found = segments_by_class(labels, IGNORED, background=self.background)
        return AnnotatedImage(image, *found)

    def submitted(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(self.submission or self.values)[labels]


def open_layout(name: str, layout: Layout, root: Path | None) -> FolderDataset:
    home = _find_home(name, layout, root)
    names = _listed(home / layout.names) if layout.names else _found(home, layout.images)
    files = {item: (home / layout.images.format(item), home / layout.labels.format(item)) for item in names}
    classes = class_list(layout.classes)
    return FolderDataset(
        title=name,
        home=home,
        files=_checked(name, files),
        classes=classes,
        background=layout.background,
        values=layout.values,
        ignored=layout.ignored,
        submission=layout.submitted or (),
    )


def _find_home(name: str, layout: Layout, root: Path | None) -> Path:
    folders = [root, root / layout.home] if root else [Path("data") / layout.home]
    first = layout.names or layout.images.split("{}")[0].rpartition("/")[0]
    for folder in folders:
        if (folder / first).exists():
            return folder
    looked = " and ".join(f"'{folder / first}'" for folder in folders)
    raise DatasetError(
        f"{name} is not there: no {looked}; give its folder, or mmsegmentation's data folder, with --root"
    )


def _listed(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"'{path}' lists no image")
    return names


def _found(home: Path, pattern: str) -> list[str]:
    before, after = pattern.split("{}")
    folder = home / before.rpartition("/")[0]
    paths = sorted(folder.rglob(f"*{after}"))
    names = [path.relative_to(folder).as_posix().removesuffix(after) for path in paths]
    if not names:
        raise DatasetError(f"no image '{folder}/*{after}'")
    return names


def _checked(name: str, files: Mapping[str, tuple[Path, Path]]) -> Mapping[str, tuple[Path, Path]]:
    missing = [path for pair in files.values() for path in pair if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{name}: {len(missing):,} of {2 * len(files):,} files are missing, first '{missing[0]}'; "
            f"complete the data set"
        )
    return files


def open_own(folder: Path) -> FolderDataset:
    listing = folder / "classes.txt"
    if not listing.is_file():
        raise DatasetError(f"no '{listing}'; write one class per line there, synonyms after commas")
    classes = tuple(parse_classes(str(listing)))
    background = classes[0].name.casefold() == BACKGROUND
    if len(classes) > IGNORED:
        raise DatasetError(
            f"'{listing}' names {len(classes)} classes; label files of 8 bits hold {IGNORED} at most"
        )
    found = [path for path in sorted((folder / "images").glob("*")) if _is_image(path)]
    images = {path.stem: path for path in found}
    if not images:
        raise DatasetError(f"no image in '{folder / 'images'}'; expected .jpg, .png or the like")
    if len(images) < len(found):
        twice = next(path for path in found if images[path.stem] != path)
        raise DatasetError(
            f"'{twice}' and '{images[twice.stem]}' share a name and so a label file; rename one"
        )
    files = {stem: (path, folder / "labels" / f"{stem}.png") for stem, path in images.items()}
    return FolderDataset(
        title=folder.resolve().name,
        home=folder,
        files=_checked(str(folder), files),
        classes=classes[1:] if background else classes,
        background=background,
        values=tuple(range(len(classes))),
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS


def _read_labels(path: Path) -> np.ndarray:
    """(H, W) numbers of a single-channel picture, palette or not."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as picture:
            stored = np.array(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise DatasetError(f"label file '{path}' cannot be read: {error}") from error
    if stored.ndim != 2 or stored.dtype == bool:
        raise DatasetError(
            f"label file '{path}' is {stored.shape} {stored.dtype}; expected one channel of label numbers"
        )
    return stored.astype(np.int64)


def _upright(labels: np.ndarray, image: Path, path: Path) -> np.ndarray:
    """Labels as the image is shown. A photograph may be stored turned (EXIF); its labels may be of either.

    Raises `DatasetError` where their size does not tell which.
    """
    try:
        with Image.open(image, formats=IMAGE_FORMATS) as picture:
            orientation, stored = picture.getexif().get(_ORIENTATION, 1), (picture.height, picture.width)
    except (UnidentifiedImageError, OSError):  # the segmenter says so, in its own words
        return labels
    if orientation not in _TURNS:
        return labels
    turned = stored[::-1] if orientation >= 5 else stored
    if stored == turned:
        raise DatasetError(
            f"'{image}' is stored turned (EXIF orientation {orientation}), and the size of '{path}' does "
            f"not tell whether its labels are too; store the image upright"
        )
    return _TURNS[orientation](labels) if labels.shape == stored else labels


_ORIENTATION = 0x0112
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda labels: np.rot90(labels, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda labels: np.rot90(labels, -1),
    7: lambda labels: np.rot90(labels, 2).T,
    8: np.rot90,
}
"""How a picture of each EXIF orientation is turned to be upright."""
