"""`freeda reproduce`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from freeda.commands.options import DEVICE, TRUST, asking_for_trust
from freeda.commands.paths import optional_out_folder
from freeda.commands.progress_bar import ProgressBar
from freeda.errors import FreedaError
from freeda.evaluation.published import PUBLISHED, SUPERPIXELS

if TYPE_CHECKING:
    from freeda.evaluation.datasets import Dataset
    from freeda.evaluation.runner import Run
    from freeda.index.reader import PrototypeIndex
    from freeda.methods.base import Segmenter

__all__ = ["reproduce_command"]

_Made = TypeVar("_Made")
_INDEX = "./indexes/freeda-coco"
_CURES = {
    "data set": "docs/reproduce.md says where to get it and how to lay it out; name its folder with --root",
    "index": "import the authors' prototypes (`freeda index import-upstream`) or build one "
    "(`freeda build-index`), and name it with --index; docs/reproduce.md has the commands",
    "models": "docs/presets.md says where weights come from, and how without a network",
}


@click.command("reproduce", context_settings={"show_default": True})
@click.argument("dataset", type=click.Choice(list(PUBLISHED)))
@click.option(
    "--root", type=click.Path(path_type=Path), help="The data set's folder, or the one that holds it."
)
@click.option("--index", default=_INDEX, help="Index: a name, ./FOLDER or hf://USER/NAME.")
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Evaluate only the first N images.")
@click.option(
    "--out", callback=optional_out_folder, help="Folder of the results.  [default: reproduced/DATASET]"
)
@click.option("--overwrite", is_flag=True, help="Replace another run in --out.")
@DEVICE
@TRUST
def reproduce_command(dataset: str, root: Path | None, out: Path | None, **options: Any) -> None:
    """Measure FreeDA on DATASET with the paper's recipe, and show the figure beside the published ones.

    Superpixel settings are those of the released code for this data set, or for a similar one. Steps that
    this machine cannot do are listed with what each needs. Run the same command again after an interruption:
    it resumes.
    """
    from freeda.evaluation.datasets import open_dataset
    from freeda.evaluation.report import summary, write_report
    from freeda.evaluation.runner import RunFolder, evaluate
    from freeda.index.reader import PrototypeIndex

    data = _step("data set", lambda: open_dataset(dataset, root), lambda found: f"{len(found):,} images")
    index = _step(
        "index", lambda: PrototypeIndex.open(options["index"]), lambda found: f"{len(found):,} prototypes"
    )
    if data is None or index is None:
        sys.exit(1)
    segmenter = _segmenter(index, data, options["device"], options["trust_models"])
    if segmenter is None:
        sys.exit(1)
    target = out or Path("reproduced") / dataset
    folder, limit = RunFolder(target, options["overwrite"]), options["limit"]
    with ProgressBar(" images") as bar:
        run = evaluate(segmenter, data, folder, on_progress=bar.advance, limit=limit)
    write_report(run, segmenter, target)
    click.echo(_comparison(dataset, summary(run)["miou"], index, run))


def _segmenter(index: PrototypeIndex, data: Dataset, device: str, trust: bool | None) -> Segmenter | None:
    """FreeDA with the index's models, by the paper's recipe; None where they are not to be had."""
    from freeda.methods import load
    from freeda.models.loading import choose_device

    place = choose_device(device)
    superpixels: dict[str, Any] = {
        f"superpixels.{key}": value for key, value in SUPERPIXELS[str(data.identity["dataset"])].items()
    }
    options = {"recipe": "paper", "background": data.background, "device": str(place), **superpixels}
    return _step(
        "models",
        lambda: asking_for_trust(lambda trusted: load(index.folder, trust_models=trusted, **options), trust),
        lambda found: f"{index.manifest.preset['name']}, on {place}",
    )


def _step(name: str, work: Callable[[], _Made], told: Callable[[_Made], str]) -> _Made | None:
    """What `work` gives, told in one line; None where it cannot be done, with what it needs."""
    try:
        made = work()
    except FreedaError as error:
        click.echo(f"{name:9} missing: {error}\n{'':9} {_CURES[name]}")
        return None
    click.echo(f"{name:9} {told(made)}")
    return made


def _comparison(dataset: str, ours: float, index: PrototypeIndex, run: Run) -> str:
    whole = len(run.dataset)
    part = "" if len(run.records) == whole else f", on {len(run.records):,} of {whole:,} images only"
    lines = [f"\n{dataset}, mIoU in percent{part}", f"  {ours:6.2f}          here: {index.folder.name}"]
    for figure in PUBLISHED[dataset]:
        other = "" if figure.vector_dim == index.manifest.vector_dim else "; another backbone than here"
        lines.append(f"  {figure.miou:6.2f}  {ours - figure.miou:+6.2f}  published: {figure.source}{other}")
    return "\n".join(lines)
