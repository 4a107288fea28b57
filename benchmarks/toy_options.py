"""What each option of FreeDA's online stage is worth on the toy world, beside the preset's choice.

Measured on validation scenes, so that choosing by it spoils no evaluation figure. Run from the checkout's
root: `python benchmarks/toy_options.py [--scenes 150] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from results import publish
from scenes import DATA, measured, miou

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.toy import ToyDataset
from freeda.methods import load

_HEADER = """## Options of FreeDA

`python benchmarks/toy_options.py --scenes {scenes} --write`: only what a row names differs from the preset.
Percentage points with 95 % intervals from 10,000 resamples of the scenes.
"""
_OPTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("`metric = cosine`", {"metric": "cosine"}),
    ("`shrinkage = 1.0`", {"shrinkage": 1.0}),
    ("`local_weight = 1.0` (no global score)", {"local_weight": 1.0}),
    ("`local_weight = 0.6`", {"local_weight": 0.6}),
    ("`local_weight = 0.85`", {"local_weight": 0.85}),
    ("`neighbors = 10`", {"neighbors": 10}),
    ("`neighbors = 100`", {"neighbors": 100}),
    ("`neighbor_margin = 2` (none left out)", {"neighbor_margin": 2.0}),
    ("`retrieval = region`", {"retrieval": "region"}),
    ("`pooling = area`", {"pooling": "area"}),
    ("`pooling = bilinear`", {"pooling": "bilinear"}),
    ("`merge_above = 1` (superpixels not merged)", {"merge_above": 1.0}),
    ("`merge_above = 0.6`", {"merge_above": 0.6}),
    ("`merge_above = 0.8`", {"merge_above": 0.8}),
    ("`color_weight = 0`", {"color_weight": 0.0}),
    ("`color_weight = 0.2`", {"color_weight": 0.2}),
    ("`superpixels.sigma = 0.8`", {"superpixels.sigma": 0.8}),
    ("`color_weight = 0`, `superpixels.sigma = 0.8`", {"color_weight": 0.0, "superpixels.sigma": 0.8}),
    ("`compactness_weight = 0`", {"compactness_weight": 0.0}),
    (
        "`compactness_weight = 0`, `color_weight = 0`, `superpixels.sigma = 0.8`",
        {"compactness_weight": 0.0, "color_weight": 0.0, "superpixels.sigma": 0.8},
    ),
    ("`compactness_weight = 0.5`", {"compactness_weight": 0.5}),
    ("`pamr = 0`", {"pamr": 0}),
    ("`synonyms = false`", {"synonyms": False}),
    ("`resizing = plain`", {"resizing": "plain"}),
    ("`superpixels.algorithm = felzenszwalb`", {"superpixels.algorithm": "felzenszwalb"}),
    ("`native = true` (images as they are)", {"native": True}),
    ("`precision = bfloat16`", {"precision": "bfloat16"}),
)


def table(scenes: int) -> Iterator[str]:
    data = ToyDataset(split="validation")
    usual = measured(load("toy"), scenes, data=data)
    yield f"{scenes} validation scenes, all {len(DATA.classes)} kinds."
    yield ""
    yield "| option | mIoU | difference |"
    yield "|---|---|---|"
    yield f"| the toy preset | {usual.miou():.1f} | |"
    for name, changes in _OPTIONS:
        found = measured(load("toy", **changes), scenes, data=data)
        difference = paired_bootstrap(found.counts, usual.counts, lambda sums: 100 * miou(sums))
        yield f"| {name} | {found.miou():.1f} | {difference} |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", default=150)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, write: bool) -> None:
    """Prints the table."""
    publish("toy-options", [_HEADER.format(scenes=scenes)], table(scenes), write=write)


if __name__ == "__main__":
    main()
