"""`freeda evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from freeda.commands.options import BACKGROUND_CONCEPTS
from freeda.commands.progress_bar import ProgressBar

__all__ = ["evaluate_command"]


@click.command("evaluate", context_settings={"show_default": True})
@click.argument("dataset")
@click.option(
    "--root", type=click.Path(path_type=Path), help="The data set's folder, or the one that holds it."
)
@click.option("--index", default="toy", help="Index name or folder.")
@click.option("--method", default="freeda")
@click.option("--recipe", default="default", help="default, or paper for the released code's algorithm.")
@click.option("--preset", help="Take the models from this preset; else the index's own.")
@click.option("--background-concepts", metavar="LIST", help=f"{BACKGROUND_CONCEPTS}.")
@click.option("--limit", type=click.IntRange(1), help="Only so many images.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results; else evaluated/DATASET.")
@click.option("--save-predictions", is_flag=True, help="Keep label maps with the data set's own ids.")
@click.option("--overwrite", is_flag=True, help="Replace another run in --out.")
@click.option("--device", default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate_command(
    dataset: str,
    root: Path | None,
    out: Path | None,
    limit: int | None,
    save_predictions: bool,
    overwrite: bool,
    as_json: bool,
    method: str,
    index: str,
    **options: Any,
) -> None:
    """Measure a method on DATASET: voc20, voc21, context59, context60, coco-stuff, coco-object,
    cityscapes, ade20k, toyworld, toyworld-things, or a folder with images/, labels/ and classes.txt.

    Run the same command again after an interruption: it goes on where it stopped.
    """
    from freeda.evaluation.datasets import open_dataset
    from freeda.evaluation.report import summary, table, write_report
    from freeda.evaluation.runner import evaluate
    from freeda.methods import load_method

    data = open_dataset(dataset, root)
    model = load_method(method, index=index, background=data.background, **options)
    target = out or Path("evaluated") / Path(dataset).resolve().name
    settings = {"method": method, **model.identity}
    with ProgressBar(" images") as bar:
        run = evaluate(
            model,
            data,
            target,
            settings,
            limit=limit,
            overwrite=overwrite,
            save_predictions=save_predictions,
            progress=bar.advance,
        )
    written = write_report(run, model, target)
    figures = summary(run)
    click.echo(json.dumps(figures, default=str) if as_json else table(figures))
    if not as_json:
        click.echo(f"written         {', '.join(str(path) for path in written)}")
