"""What the trained methods' parts are worth, with the committed weights.

Run from the checkout's root: `python benchmarks/trained.py METHOD [--scenes 300] [--write]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import click
import numpy as np
from measuring import machine
from results import publish
from scenes import CPU, DATA, IS_UNSEEN, STUFF, Measured, measured, miou, permuted

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.methods import load
from freeda.methods.base import Segmenter

_HEADER = """## {title}: what names and parts are worth

`python benchmarks/trained.py {method} --scenes {scenes} --write`, percent of mIoU, with the committed
weights. They were trained on scenes without the 12 unseen kinds. Under permuted names, every unseen kind is
called by another unseen one's: what remains does not depend on the name.
"""
_TITLES = {"odise": "ODISE", "digseg": "DiGSeg"}
_MASKS_ALONE = {"presence": 0.0, "presence_power": 0.0}


def table(method: str, scenes: int) -> Iterator[str]:
    yield f"{scenes} held-out scenes; {machine(CPU)}."
    yield ""
    yield (
        "| mIoU | seen | unseen | unseen, permuted names | what right names gain (95 %) | PQ | PQ seen "
        "| PQ unseen |"
    )
    yield "|" + "---|" * 8
    segmenter = load(method=method, **({"stuff": STUFF} if method == "odise" else {}))
    found = measured(segmenter, scenes)
    yield _names(segmenter, scenes, found)
    parts = (branches,) if method == "odise" else (presence, masks_of_present)
    for part in parts:
        yield from ("", *part(scenes, found))


def _names(segmenter: Segmenter, scenes: int, found: Measured) -> str:
    other = measured(segmenter, scenes, permuted())
    gain = paired_bootstrap(found.counts, other.counts, lambda sums: 100 * miou(sums, IS_UNSEEN))
    figures = (found.miou(), found.miou(~IS_UNSEEN), found.miou(IS_UNSEEN), other.miou(IS_UNSEEN))
    quality = [
        100 * found.quality.mean(np.flatnonzero(some))[0]
        for some in (np.full(len(IS_UNSEEN), True), ~IS_UNSEEN, IS_UNSEEN)
    ]
    left, right = (" | ".join(f"{figure:.1f}" for figure in some) for some in (figures, quality))
    return f"| {left} | {gain} | {right} |"


def branches(scenes: int, found: Measured) -> Iterator[str]:
    yield "The two branches, with the same weights (mIoU, and the gain of fusing them, 95 %):"
    yield ""
    yield "| | seen | unseen | fusion's gain, seen | unseen |"
    yield "|---|---|---|---|---|"
    rivals = {
        "diffusion branch alone": (0.0, 0.0),
        "CLIP branch alone": (1.0, 1.0),
        "the paper's shares of CLIP, 0.3 and 0.7": (0.3, 0.7),
    }
    for name, (seen, unseen) in rivals.items():
        one = load(method="odise", stuff=STUFF, seen_weight=seen, unseen_weight=unseen)
        alone = measured(one, scenes)
        gains = [
            paired_bootstrap(found.counts, alone.counts, lambda sums, some=some: 100 * miou(sums, some))
            for some in (~IS_UNSEEN, IS_UNSEEN)
        ]
        figures = f"{alone.miou(~IS_UNSEEN):.1f} | {alone.miou(IS_UNSEEN):.1f}"
        yield f"| {name} | {figures} | {gains[0]} | {gains[1]} |"


def presence(scenes: int, found: Measured) -> Iterator[str]:
    """What CLIP's probability of each class does to DiGSeg. found: with the preset's settings."""
    alone = measured(load(method="digseg", **_MASKS_ALONE), scenes)
    filtered = measured(load(method="digseg", presence_power=0.0), scenes)
    yield "Masks and CLIP's probability of each class (mIoU, and the gain over masks alone, 95 %):"
    yield ""
    yield "| | mIoU | seen | unseen | gain |"
    yield "|---|---|---|---|---|"
    for name, one in (
        ("masks alone", alone),
        ("classes below 0.002 are not looked for", filtered),
        ("and masks are multiplied by its power of 0.2 (the preset)", found),
    ):
        gain = paired_bootstrap(one.counts, alone.counts, lambda sums: 100 * miou(sums))
        figures = f"{one.miou():.1f} | {one.miou(~IS_UNSEEN):.1f} | {one.miou(IS_UNSEEN):.1f}"
        yield f"| {name} | {figures} | {'' if one is alone else gain} |"


def masks_of_present(scenes: int, found: Measured) -> Iterator[str]:
    """How well DiGSeg paints the masks of the classes that an image shows, when asked for these alone."""
    segmenter = load(method="digseg", **_MASKS_ALONE)
    ious: dict[tuple[bool, bool], list[float]] = defaultdict(list)
    for number in range(scenes):
        truth = DATA.truth(number)
        shown = [int(label) for label in np.unique(truth) if label >= 0]
        names = [DATA.classes[label].name for label in shown]
        segmenter.set_classes(names)
        maps = segmenter.segment(DATA.image(number)).score_maps(names)
        for label, scores in zip(shown, maps, strict=True):
            mask, true = scores > 0.5, truth == label
            iou = (mask & true).sum() / (mask | true).sum()
            ious[label in DATA.things, bool(IS_UNSEEN[label])].append(iou)
    yield "Masks of the classes that a scene shows (mean IoU at a score of 0.5; number of masks):"
    yield ""
    yield "| | seen | unseen |"
    yield "|---|---|---|"
    for is_thing, title in ((True, "things"), (False, "stuff")):
        groups = [ious[is_thing, unseen] for unseen in (False, True)]
        cells = [f"{np.mean(group):.3f} ({len(group)})" for group in groups]
        yield f"| {title} | {' | '.join(cells)} |"


@click.command(context_settings={"show_default": True})
@click.argument("method", type=click.Choice(sorted(_TITLES)))
@click.option("--scenes", type=int, default=300)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(method: str, scenes: int, write: bool) -> None:
    """Prints the table of METHOD."""
    head = _HEADER.format(title=_TITLES[method], method=method, scenes=scenes)
    publish(f"trained-{method}", [head], table(method, scenes), write=write)


if __name__ == "__main__":
    main()
