"""The order of the benchmarks' classes, against sources outside this project."""

from __future__ import annotations

import hashlib

import pytest
from torchvision.datasets import Cityscapes
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights

from freeda.class_lists import class_list


def names(vocabulary: str) -> list[str]:
    return [item.name for item in class_list(vocabulary)]


def coco() -> list[str]:
    categories = FCOS_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    return [name for name in categories if name not in ("N/A", "__background__")]


def test_voc_and_coco_and_cityscapes_are_in_torchvision_s_order() -> None:
    voc = FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:]
    assert [name.replace(" ", "") for name in names("voc")] == voc
    assert names("coco-object") == coco()
    trained = sorted((c for c in Cityscapes.classes if 0 <= c.train_id < 255), key=lambda c: c.train_id)
    assert names("cityscapes") == [c.name for c in trained]


def test_coco_stuff_is_coco_and_then_stuff_by_the_official_names_in_alphabetical_order() -> None:
    """Official names of stuff put the kind last ("floor-marble") and mark what is left of one ("-other")."""
    assert names("coco-stuff")[:80] == coco()
    others = ("floor", "wall", "water", "window", "plant")
    official = {name: f"{name}-other" for name in others}
    official |= {"structure": "structural-other", "water drops": "waterdrops"}

    def key(name: str) -> str:
        first, _, last = name.partition(" ")
        return official.get(name, f"{last}-{first}" if last in ("floor", "wall") else name.replace(" ", "-"))

    stuff = names("coco-stuff")[80:]
    assert len(stuff) == 91
    assert stuff == sorted(stuff, key=key)


def test_context_is_in_alphabetical_order() -> None:
    assert names("context") == sorted(names("context"))


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "wall"), (13, "person"), (21, "car"), (50, "fireplace"), (67, "flower"), (77, "boat")]
    + [(90, "television receiver"), (104, "ship"), (120, "ball"), (127, "animal"), (150, "flag")],
)
def test_ade20k_s_numbers_are_those_of_its_label_files(number: int, name: str) -> None:
    assert names("ade20k")[number - 1] == name


def test_no_two_classes_of_ade20k_have_changed_places() -> None:
    """No library here holds the whole list: what was checked by hand is kept by its digest."""
    text = "\n".join(names("ade20k"))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f9dbd8a75a0722c9"
