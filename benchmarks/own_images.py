"""What a few of one's own images per class are worth where the style of drawing is foreign to all models.

Run from the checkout's root: `python benchmarks/own_images.py [--scenes 300] [--write]`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from results import publish
from scenes import DATA, Measured, measured, miou

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.toy import ToyDataset
from freeda.methods import load
from freeda.methods.freeda import add_images
from freeda.segmentation.images import read_image
from freeda.segmentation.marked_images import Mark, MarkedImage

_HEADER = """## Own images

`python benchmarks/own_images.py --write`: FreeDA on the toy world's scenes drawn in ink (opposite hues, few
tones, dark outlines), a style that no model has seen, with images of that style and their masks beside the
toy index, or alone. Percentage points with 95 % intervals from 10,000 resamples of the scenes.
"""
_FEW = (1, 5, 20)
_MOST_SCENES = 3000
_LOCAL = {"local_weight": 1.0}
"""CLIP's view of the whole image is foreign to the style too."""


def own_images(per_class: int, *, ink: bool = True) -> Iterator[MarkedImage]:
    """Validation scenes, the first ones that show each class, with its mask."""
    data = ToyDataset(split="validation", ink=ink, count=_MOST_SCENES)
    given: Counter[int] = Counter()
    for number in range(len(data)):
        labels = data.truth(number)
        wanted = [int(label) for label in np.unique(labels) if given[int(label)] < per_class]
        given.update(wanted)
        if wanted:
            marks = tuple(Mark(data.classes[label].name, labels == label) for label in wanted)
            yield MarkedImage(data.name(number), read_image(data.image(number)), marks)
        if len(given) == len(data.classes) and min(given.values()) == per_class:
            return


def table(scenes: int) -> Iterator[str]:
    ink = ToyDataset(ink=True)
    clean = measured(load(), scenes)
    before = measured(load(), scenes, data=ink)
    yield f"{scenes} held-out scenes, all {len(DATA.classes)} kinds. Without ink: {clean.miou():.1f} mIoU."
    yield ""
    yield "| own images per class | index | local weight | mIoU | gain | of what the style costs |"
    yield "|---|---|---|---|---|---|"
    usual = load().method.settings.local_weight  # type: ignore[attr-defined]
    yield f"| 0 | toy | {usual} | {before.miou():.1f} | | |"
    local = measured(load(**_LOCAL), scenes, data=ink)
    yield _row("0 | toy | 1.0", local, before, clean)
    with TemporaryDirectory() as work:
        for count in _FEW:
            beside, alone = Path(work) / f"beside-{count}", Path(work) / f"alone-{count}"
            add_images("toy", own_images(count), beside)
            add_images("toy", own_images(count), alone, alone=True)
            for index, name, weight in (
                (beside, "toy and these", usual),
                (beside, "toy and these", 1.0),
                (alone, "these alone", 1.0),
            ):
                found = measured(load(index, local_weight=weight), scenes, data=ink)
                yield _row(f"{count} | {name} | {weight}", found, before, clean)
        known = Path(work) / "known"
        add_images("toy", own_images(5, ink=False), known)
        found = measured(load(known), scenes)
    yield ""
    gain = paired_bootstrap(found.counts, clean.counts, lambda sums: 100 * miou(sums))
    yield (
        f"In the style that the models know, 5 images per class beside the toy index: {found.miou():.1f} "
        f"mIoU, {gain} over the index by itself."
    )


def _row(head: str, found: Measured, before: Measured, clean: Measured) -> str:
    gain = paired_bootstrap(found.counts, before.counts, lambda sums: 100 * miou(sums))
    share = (found.miou() - before.miou()) / (clean.miou() - before.miou())
    return f"| {head} | {found.miou():.1f} | {gain} | {100 * share:.0f} % |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", default=300)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, write: bool) -> None:
    """Prints the table."""
    publish("own-images", [_HEADER], table(scenes), write=write)


if __name__ == "__main__":
    main()
