"""What the benchmarks of whole methods share: the toy world's held-out scenes, and how methods do on them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from freeda.class_names import ClassName
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.panoptic import PanopticQuality, match_segments
from freeda.evaluation.toy import ToyDataset
from freeda.methods.base import Segmenter
from freeda.toyworld.split import UNSEEN

__all__ = ["CPU", "DATA", "IS_UNSEEN", "STUFF", "Measured", "measured", "miou", "permuted"]

CPU = torch.device("cpu")
DATA = ToyDataset()
IS_UNSEEN = np.array([item.name in UNSEEN for item in DATA.classes])
STUFF = tuple(item.name for number, item in enumerate(DATA.classes) if number not in DATA.things)


@dataclass(frozen=True)
class Measured:
    """counts: (N, C, C + 1) pixels per scene. quality: of segments. seconds: per scene."""

    counts: np.ndarray
    quality: PanopticQuality
    seconds: float

    def miou(self, chosen: np.ndarray | None = None) -> float:
        return float(100 * miou(self.counts.sum(0)[None], chosen)[0])


def miou(counts: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """(R,) mean IoU of (R, C, C + 1) counts, over all classes or some."""
    square = counts[:, :, : counts.shape[1]]
    hits = np.einsum("rcc->rc", square)
    union = counts.sum(2) + square.sum(1) - hits
    iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    return np.nanmean(iou if chosen is None else iou[:, chosen], axis=1)


def measured(
    segmenter: Segmenter,
    scenes: int,
    classes: Sequence[ClassName] = DATA.classes,
    *,
    data: ToyDataset = DATA,
) -> Measured:
    """classes: in the data's order; other names may stand for some of them."""
    segmenter.set_classes(classes)
    counts, total, seconds = [], PanopticQuality(len(classes)), 0.0
    for number in range(scenes):
        image, started = data.image(number), time.perf_counter()
        result = segmenter.segment(image)
        seconds += time.perf_counter() - started
        matrix = ConfusionMatrix(len(classes))
        matrix.add(data.truth(number), result.labels)
        counts.append(matrix.counts())
        total.add(match_segments(data.annotated(number), result.segments))
    return Measured(np.stack(counts), total, seconds / scenes)


def permuted() -> list[ClassName]:
    """Every unseen kind under the name of another unseen one, things and stuff apart."""
    classes = list(DATA.classes)
    for group in (DATA.things, set(range(len(classes))) - DATA.things):
        places = [number for number in sorted(group) if IS_UNSEEN[number]]
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            classes[place] = DATA.classes[other]
    return classes
