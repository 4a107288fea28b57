"""Data sets: benchmarks in mmsegmentation's folder layouts, COCO's panoptic format, folders of your own, and
the toy world.

A data set gives images and true label maps separately, and its classes are fixed before either is read:
a method cannot see which classes an image holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from freeda.class_names import BACKGROUND, ClassName
from freeda.errors import DatasetError
from freeda.evaluation.coco_panoptic import CocoPanopticDataset, find_panoptic
from freeda.evaluation.folders import FolderDataset, open_layout, open_own
from freeda.evaluation.layouts import DATASETS
from freeda.evaluation.toy import ToyDataset
from freeda.segmentation.annotations import AnnotatedImage
from freeda.segmentation.images import ImageLike

__all__ = ["DATASETS", "Dataset", "FolderDataset", "ToyDataset", "label_names", "open_dataset"]


class Dataset(Protocol):
    """Images with true label maps.

    classes: the vocabulary, without a background.
    background: whether label 0 is a background, and `classes` begin at label 1.
    things: numbers of the `classes` whose instances are told apart.
    identity: what a result depends on, as plain data.
    """

    @property
    def classes(self) -> tuple[ClassName, ...]: ...
    @property
    def background(self) -> bool: ...
    @property
    def things(self) -> frozenset[int]: ...
    @property
    def identity(self) -> Mapping[str, str | int]: ...
    def __len__(self) -> int: ...
    def name(self, number: int) -> str:
        """A relative path without ending, unique in the data set."""
        ...

    def image(self, number: int) -> ImageLike: ...
    def truth(self, number: int) -> np.ndarray:
        """(H, W) int64: labels, `IGNORED` where nothing counts."""
        ...

    def annotated(self, number: int) -> AnnotatedImage:
        """The image with its true segments."""
        ...

    def submitted(self, labels: np.ndarray) -> np.ndarray:
        """Labels as the data set's own files number them, for evaluation servers."""
        ...


_TOY = {
    "toyworld": ToyDataset(),
    "toyworld-things": ToyDataset(background=True),
    "toyworld-ink": ToyDataset(ink=True),
}
"""Drawn data sets."""
_OWN = "a COCO panoptic JSON file, or a folder with one or with images/, labels/ and classes.txt"


def open_dataset(name: str, root: Path | None = None) -> Dataset:
    """A data set by name, one in COCO's panoptic format (its folder or its JSON file), or a folder of the
    user's own with `images`, `labels` and `classes.txt`.

    root: the data set's folder, or mmsegmentation's `data` folder that holds it.
    Raises `DatasetError`.
    """
    if name in DATASETS:
        return open_layout(name, DATASETS[name], root)
    if name in _TOY or Path(name).exists():
        if root is not None:
            raise DatasetError(f"--root {root} has no meaning for '{name}'; leave it out")
        return _TOY[name] if name in _TOY else _open_path(Path(name))
    known = ", ".join([*_TOY, *DATASETS])
    raise DatasetError(f"no data set '{name}'; expected one of {known}, or {_OWN}")


def _open_path(path: Path) -> Dataset:
    if (listing := find_panoptic(path)) is not None:
        return CocoPanopticDataset.open(listing)
    if not path.is_dir():
        raise DatasetError(f"'{path}' is no data set; expected {_OWN}")
    return open_own(path)


def label_names(dataset: Dataset) -> tuple[str, ...]:
    """The name of every label, background first where there is one."""
    names: Sequence[str] = [item.name for item in dataset.classes]
    return (BACKGROUND, *names) if dataset.background else tuple(names)
