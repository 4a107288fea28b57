"""ODISE beside the methods that are not trained, on the toy world.

Run from the checkout's root: `python benchmarks/trained.py [--scenes 300] [--weights FOLDER] [--write]`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from measuring import machine
from results import publish

from freeda.class_names import ClassName
from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.panoptic import PanopticQuality, match_segments
from freeda.evaluation.toy import ToyDataset
from freeda.methods import load
from freeda.methods.base import Segmenter
from freeda.toyworld.split import UNSEEN, TrainingScenes

CPU = torch.device("cpu")
DATA = ToyDataset()
IS_UNSEEN = np.array([item.name in UNSEEN for item in DATA.classes])
STUFF = tuple(item.name for number, item in enumerate(DATA.classes) if number not in DATA.things)
_HEADER = """## Trained methods on the toy world

`python benchmarks/trained.py --write`, percent. The vocabulary is all 50 kinds; ODISE was trained on scenes
without 12 of them, the unseen ones. Their frozen models, as FreeDA's, learnt from captions of all 50.
"""


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


def measured(segmenter: Segmenter, scenes: int, classes: Sequence[ClassName] = DATA.classes) -> Measured:
    """classes: in the data's order; other names may stand for some of them."""
    segmenter.set_classes(classes)
    counts, total = [], PanopticQuality(len(classes))
    started = time.perf_counter()
    for number in range(scenes):
        result = segmenter.segment(DATA.image(number))
        matrix = ConfusionMatrix(len(classes))
        matrix.add(DATA.truth(number), result.labels)
        counts.append(matrix.counts())
        total.add(match_segments(DATA.annotated(number), result.segments))
    return Measured(np.stack(counts), total, (time.perf_counter() - started) / scenes)


def row(name: str, found: Measured, trained: str, supervision: str) -> str:
    seen, unseen = found.miou(~IS_UNSEEN), found.miou(IS_UNSEEN)
    harmonic = 2 * seen * unseen / max(seen + unseen, 1e-9)
    quality = [
        100 * found.quality.mean(np.flatnonzero(some))[0]
        for some in (np.full(len(IS_UNSEEN), True), ~IS_UNSEEN, IS_UNSEEN)
    ]
    figures = (found.miou(), seen, unseen, harmonic, *quality)
    shown = " | ".join(f"{figure:.1f}" for figure in figures)
    return f"| {name} | {shown} | {found.seconds:.2f} | {trained} | {supervision} |"


def permuted() -> list[ClassName]:
    """Every unseen kind under the name of another unseen one, things and stuff apart."""
    classes = list(DATA.classes)
    for group in (DATA.things, set(range(len(classes))) - DATA.things):
        places = [number for number in sorted(group) if IS_UNSEEN[number]]
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            classes[place] = DATA.classes[other]
    return classes


def table(scenes: int, weights: str | None) -> Iterator[str]:
    yield f"{scenes} held-out scenes; {machine(CPU)}."
    yield ""
    yield (
        "| method | mIoU | seen | unseen | harmonic | PQ | PQ seen | PQ unseen | s per image | trained "
        "parameters | supervision |"
    )
    yield "|" + "---|" * 11
    none = "none (captions made the frozen models)"
    yield row("FreeDA", measured(load(), scenes), "0", none)
    yield row("DiffSegmenter", measured(load(method="diffsegmenter"), scenes), "0", none)
    odise = load(method="odise", weights=weights, stuff=STUFF)
    trained = sum(weight.numel() for weight in odise.method.network.parameters())  # type: ignore[attr-defined]
    learnt = f"masks and names of 38 kinds, {len(TrainingScenes()):,} scenes"
    found = measured(odise, scenes)
    yield row("ODISE", found, f"{trained:,}", learnt)
    other = measured(odise, scenes, permuted())
    yield row("ODISE, unseen names permuted", other, f"{trained:,}", learnt)
    yield ""
    gain = paired_bootstrap(found.counts, other.counts, lambda sums: 100 * miou(sums, IS_UNSEEN))
    yield f"Right names of unseen kinds against permuted ones: {gain} mIoU of unseen kinds."
    yield ""
    yield from branches(odise, scenes, found, weights)


def branches(odise: Segmenter, scenes: int, found: Measured, weights: str | None) -> Iterator[str]:
    yield "The two branches, with the same weights (mIoU of seen and unseen kinds, and what fusion gains):"
    yield ""
    yield "| | seen | unseen | fusion's gain, seen | unseen |"
    yield "|---|---|---|---|---|"
    for name, share in (("diffusion branch alone", 0.0), ("CLIP branch alone", 1.0)):
        one = load(method="odise", weights=weights, stuff=STUFF, seen_weight=share, unseen_weight=share)
        alone = measured(one, scenes)
        gains = [
            paired_bootstrap(found.counts, alone.counts, lambda sums, some=some: 100 * miou(sums, some))
            for some in (~IS_UNSEEN, IS_UNSEEN)
        ]
        figures = f"{alone.miou(~IS_UNSEEN):.1f} | {alone.miou(IS_UNSEEN):.1f}"
        yield f"| {name} | {figures} | {gains[0]} | {gains[1]} |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--weights", help="A folder that `freeda train odise` wrote.  [default: the toy preset's]")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, weights: str | None, write: bool) -> None:
    """Prints the table."""
    publish("trained", [_HEADER], table(scenes, weights), write=write)


if __name__ == "__main__":
    main()
