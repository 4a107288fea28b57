"""What the trained methods' parts are worth, with the committed weights.

Run from the checkout's root: `python benchmarks/trained.py [--scenes 300] [--write]`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import click
import numpy as np
from measuring import machine
from results import publish
from scenes import CPU, IS_UNSEEN, STUFF, Measured, measured, miou, permuted

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.methods import load
from freeda.methods.base import Segmenter

_HEADER = """## Trained methods: names and branches

`python benchmarks/trained.py --write`, percent of mIoU. ODISE and DiGSeg were trained on scenes without the
12 unseen kinds. Under permuted names, every unseen kind is called by another unseen one's: what remains does
not depend on the name.
"""


def table(scenes: int, methods: Collection[str]) -> Iterator[str]:
    yield f"{scenes} held-out scenes; {machine(CPU)}."
    yield ""
    yield (
        "| | mIoU | seen | unseen | unseen, permuted names | what right names gain (95 %) | PQ | PQ seen "
        "| PQ unseen |"
    )
    yield "|" + "---|" * 9
    odise = load(method="odise", stuff=STUFF)
    found = measured(odise, scenes)
    yield _names("ODISE", odise, scenes, found)
    if "digseg" in methods:
        digseg = load(method="digseg")
        yield _names("DiGSeg", digseg, scenes, measured(digseg, scenes))
    yield ""
    yield from branches(scenes, found)


def _names(title: str, segmenter: Segmenter, scenes: int, found: Measured) -> str:
    other = measured(segmenter, scenes, permuted())
    gain = paired_bootstrap(found.counts, other.counts, lambda sums: 100 * miou(sums, IS_UNSEEN))
    figures = (found.miou(), found.miou(~IS_UNSEEN), found.miou(IS_UNSEEN), other.miou(IS_UNSEEN))
    quality = [
        100 * found.quality.mean(np.flatnonzero(some))[0]
        for some in (np.full(len(IS_UNSEEN), True), ~IS_UNSEEN, IS_UNSEEN)
    ]
    left, right = (" | ".join(f"{figure:.1f}" for figure in some) for some in (figures, quality))
    return f"| {title} | {left} | {gain} | {right} |"


def branches(scenes: int, found: Measured) -> Iterator[str]:
    yield "ODISE's two branches, with the same weights (mIoU, and what fusion gains over each, 95 %):"
    yield ""
    yield "| | seen | unseen | fusion's gain, seen | unseen |"
    yield "|---|---|---|---|---|"
    for name, share in (("diffusion branch alone", 0.0), ("CLIP branch alone", 1.0)):
        one = load(method="odise", stuff=STUFF, seen_weight=share, unseen_weight=share)
        alone = measured(one, scenes)
        gains = [
            paired_bootstrap(found.counts, alone.counts, lambda sums, some=some: 100 * miou(sums, some))
            for some in (~IS_UNSEEN, IS_UNSEEN)
        ]
        figures = f"{alone.miou(~IS_UNSEEN):.1f} | {alone.miou(IS_UNSEEN):.1f}"
        yield f"| {name} | {figures} | {gains[0]} | {gains[1]} |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--only-odise", is_flag=True, help="Leave DiGSeg out, which takes seconds per scene.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, only_odise: bool, write: bool) -> None:
    """Prints the table."""
    methods = ("odise",) if only_odise else ("odise", "digseg")
    publish("trained", [_HEADER], table(scenes, methods), write=write)


if __name__ == "__main__":
    main()
