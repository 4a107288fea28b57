"""The committed weights of the trained methods, on a few held-out scenes of the toy world."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import freeda
from freeda.class_names import ClassName
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.panoptic import PanopticQuality, match_segments
from freeda.evaluation.toy import ToyDataset
from freeda.toyworld.split import UNSEEN

DATA = ToyDataset(count=24)
NAMES = [item.name for item in DATA.classes]
IS_UNSEEN = np.array([name in UNSEEN for name in NAMES])
STUFF = tuple(name for number, name in enumerate(NAMES) if number not in DATA.things)


def measured(model: freeda.Segmenter, classes: Sequence[ClassName]) -> tuple[np.ndarray, float]:
    """The IoU of every class, NaN where nothing shows it, and the panoptic quality."""
    model.set_classes(classes)
    matrix, quality = ConfusionMatrix(len(NAMES)), PanopticQuality(len(NAMES))
    for number in range(len(DATA)):
        result = model.segment(DATA.image(number))
        matrix.add(DATA.truth(number), result.labels)
        quality.add(match_segments(DATA.annotated(number), result.segments))
    return matrix.iou(), float(quality.mean()[0])


def test_odise_finds_seen_kinds_and_names_unseen_ones() -> None:
    model = freeda.load(method="odise", stuff=STUFF)
    ious, quality = measured(model, DATA.classes)
    assert np.nanmean(ious[~IS_UNSEEN]) > 0.6 and quality > 0.55
    turned = list(DATA.classes)
    places = [number for number in np.flatnonzero(IS_UNSEEN) if number in DATA.things]
    for place, other in zip(places, [*places[1:], places[0]], strict=True):
        turned[place] = DATA.classes[other]
    others, _ = measured(model, turned)
    assert np.nanmean(ious[places]) > np.nanmean(others[places]) + 0.25


def test_digseg_paints_what_a_scene_shows() -> None:
    """Asked for these classes alone; some of them it was never shown."""
    model = freeda.load(method="digseg", presence=0.0, presence_power=0.0)
    ious = []
    for number in range(8):
        truth = DATA.truth(number)
        shown = [int(label) for label in np.unique(truth)]
        model.set_classes([NAMES[label] for label in shown])
        maps = model.segment(DATA.image(number)).score_maps([NAMES[label] for label in shown])
        for label, scores in zip(shown, maps, strict=True):
            mask, true = scores > 0.5, truth == label
            ious.append((mask & true).sum() / (mask | true).sum())
    assert np.mean(ious) > 0.7


def test_flowseg_tells_stuff_and_things() -> None:
    ious, _ = measured(freeda.load(method="flowseg"), DATA.classes)
    stuff = np.array([name in STUFF for name in NAMES])
    assert np.nanmean(ious[stuff]) > 0.9 and np.nanmean(ious[~stuff]) > 0.55


def test_the_weights_are_small_enough_to_travel() -> None:
    folder = Path(freeda.__file__).parent / "toyworld" / "weights"
    sizes = {
        name: (folder / name / "model.safetensors").stat().st_size for name in ("odise", "digseg", "flowseg")
    }
    assert sizes["odise"] <= 8e6 and sizes["digseg"] <= 16e6 and sizes["flowseg"] <= 16e6
