"""Where the benchmarks' files lie and what their label numbers mean, as mmsegmentation documents them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["DATASETS", "IGNORED", "Layout"]

IGNORED = 255
"""The label of pixels that do not count."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set's files lie and what their numbers mean.

    home: its folder below mmsegmentation's `data`.
    images, labels: path patterns with one {} for the image's name.
    classes: a file of `classes/`.
    values: the number of each label in the label files, background first where there is one.
    names: the file that lists the images' names; None where all that `images` finds are taken.
    background: whether the first label is a background.
    ignored: numbers in the label files that do not count.
    submitted: each label's number on the evaluation servers; None where it is the same.
    """

    home: str
    images: str
    labels: str
    classes: str
    values: tuple[int, ...]
    names: str | None = None
    background: bool = False
    ignored: tuple[int, ...] = (IGNORED,)
    submitted: tuple[int, ...] | None = None


_COCO_MISSING = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_COCO_IDS = tuple(number for number in range(1, 183) if number not in _COCO_MISSING)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def _from(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + count))


_VOC21 = Layout(
    home="VOCdevkit/VOC2012",
    images="JPEGImages/{}.jpg",
    labels="SegmentationClass/{}.png",
    names="ImageSets/Segmentation/val.txt",
    classes="voc",
    values=_from(0, 21),
    background=True,
)
_CONTEXT60 = Layout(
    home="VOCdevkit/VOC2010",
    images="JPEGImages/{}.jpg",
    labels="SegmentationClassContext/{}.png",
    names="ImageSets/SegmentationContext/val.txt",
    classes="context",
    values=_from(0, 60),
    background=True,
)
_COCO_STUFF = Layout(
    home="coco_stuff164k",
    images="images/val2017/{}.jpg",
    labels="annotations/val2017/{}_labelTrainIds.png",
    classes="coco-stuff",
    values=_from(0, 171),
    submitted=_COCO_IDS,
)


def _without_background(layout: Layout) -> Layout:
    """The same files with number 0 ignored: "reduce zero label"."""
    return replace(layout, background=False, values=layout.values[1:], ignored=(0, IGNORED))


DATASETS: Mapping[str, Layout] = {
    "voc20": _without_background(_VOC21),
    "voc21": _VOC21,
    "context59": _without_background(_CONTEXT60),
    "context60": _CONTEXT60,
    "coco-stuff": _COCO_STUFF,
    "coco-object": replace(
        _COCO_STUFF,
        labels="annotations/val2017/{}_instanceTrainIds.png",
        classes="coco-object",
        values=_from(0, 81),
        background=True,
        submitted=(0, *_COCO_IDS[:80]),
    ),
    "cityscapes": Layout(
        home="cityscapes",
        images="leftImg8bit/val/{}_leftImg8bit.png",
        labels="gtFine/val/{}_gtFine_labelTrainIds.png",
        classes="cityscapes",
        values=_from(0, 19),
        submitted=_CITYSCAPES_IDS,
    ),
    "ade20k": Layout(
        home="ade/ADEChallengeData2016",
        images="images/validation/{}.jpg",
        labels="annotations/validation/{}.png",
        classes="ade20k",
        values=_from(1, 150),
        ignored=(0, IGNORED),
    ),
}
