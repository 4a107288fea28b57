"""`freeda evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from freeda.commands.options import asking_for_trust, method_options, taken_method_options
from freeda.commands.paths import optional_out_folder
from freeda.commands.progress_bar import ProgressBar

__all__ = ["evaluate_command"]


@click.command("evaluate", context_settings={"show_default": True})
@click.argument("dataset")
@click.option(
    "--root", type=click.Path(path_type=Path), help="The data set's folder, or the one that holds it."
)
@method_options
@click.option(
    "--task",
    type=click.Choice(("semantic", "panoptic", "instance")),
    default="semantic",
    help="What to measure. semantic: mIoU; panoptic: mIoU and panoptic quality; instance: mIoU and average "
    "precision.",
)
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Evaluate only the first N images.")
@click.option(
    "--out", callback=optional_out_folder, help="Folder of the results.  [default: evaluated/DATASET]"
)
@click.option(
    "--save-predictions", is_flag=True, help="Keep label maps, numbered as the data set's own files."
)
@click.option("--overwrite", is_flag=True, help="Replace another run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate_command(dataset: str, root: Path | None, out: Path | None, **options: Any) -> None:
    """Measure a method on DATASET: voc20, voc21, context59, context60, coco-stuff, coco-object, cityscapes,
    ade20k, toyworld, toyworld-things, toyworld-ink, a COCO panoptic JSON file or its folder, or a folder with
    images/, labels/ and classes.txt.

    Run the same command again after an interruption: it resumes.
    """
    chosen = taken_method_options(options)
    from freeda.evaluation.datasets import open_dataset
    from freeda.evaluation.report import summary, table, write_report
    from freeda.evaluation.runner import RunFolder, evaluate
    from freeda.methods import load, takes

    data = open_dataset(dataset, root)
    if chosen["stuff"] is None and takes(chosen["method"], "stuff"):
        chosen["stuff"] = tuple(item.name for n, item in enumerate(data.classes) if n not in data.things)
    trust = chosen.pop("trust_models")
    segmenter = asking_for_trust(
        lambda trusted: load(**chosen, trust_models=trusted, background=data.background), trust
    )
    target = out or Path("evaluated") / Path(dataset).resolve().name
    folder = RunFolder(target, options.pop("overwrite"), options.pop("save_predictions"))
    as_json = options.pop("as_json")
    with ProgressBar(" images") as bar:
        run = evaluate(segmenter, data, folder, on_progress=bar.advance, **options)
    written = write_report(run, segmenter, target)
    figures = summary(run)
    click.echo(json.dumps(figures, default=str) if as_json else table(figures))
    if not as_json:
        click.echo(f"written         {', '.join(str(path) for path in written)}")
