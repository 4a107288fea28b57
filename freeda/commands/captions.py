"""`freeda captions`: from-coco, from-classes, select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freeda.commands.options import column_options
from freeda.commands.progress_bar import ProgressBar

__all__ = ["captions_group"]


@click.group("captions")
def captions_group() -> None:
    """Get captions for a build: from COCO, from class names, or the best of very many."""


_OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a file in the place of --out.")


@captions_group.command("from-coco")
@click.argument("annotations", type=click.Path(path_type=Path))
@_OUT
@_OVERWRITE
def captions_from_coco_command(annotations: Path, out: Path, overwrite: bool) -> None:
    """Turn COCO's ANNOTATIONS, such as captions_train2017.json, into parquet."""
    from index_build.captions import captions_from_coco, write_captions

    count = write_captions(captions_from_coco(annotations), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions")


@captions_group.command("from-classes", context_settings={"show_default": True})
@click.argument("classes")
@_OUT
@_OVERWRITE
@click.option("--per-class", type=click.IntRange(1), default=50, help="Captions about each class.")
@click.option("--seed", type=int, default=0)
def captions_from_classes_command(
    classes: str, out: Path, overwrite: bool, per_class: int, seed: int
) -> None:
    """Compose varied captions about CLASSES: "cat,kitten; dog; grass", or a .txt file with a class a
    line.
    """
    from freeda.class_names import parse_classes
    from index_build.captions import compose_captions, write_captions

    parsed = parse_classes(classes)
    count = write_captions(compose_captions(parsed, per_class, seed), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions about {len(parsed):,} classes")


@captions_group.command("select", context_settings={"show_default": True})
@click.argument("captions")
@_OUT
@_OVERWRITE
@click.option("--budget", type=click.IntRange(1), required=True, help="Captions to choose.")
@click.option("--vocabulary", help="Count only these names: a class list, or a .txt file of one.")
@click.option("--model", default="all-MiniLM-L6-v2", help="sentence-transformers model, by id or folder.")
@click.option(
    "--similarity", type=click.FloatRange(0, 1), default=0.9, help="From which on two captions are one."
)
@column_options
@click.option("--seed", type=int, default=0)
@click.option("--device", default="auto")
def captions_select_command(captions: str, out: Path, **options: Any) -> None:
    """Choose from CAPTIONS, a parquet file, a folder of them, or a glob, those that cover the most:
    near-duplicates are left out, nouns are covered evenly.
    """
    from freeda.class_names import parse_classes
    from index_build.captions.reader import open_captions
    from index_build.config import CaptionColumns
    from index_build.captions.nouns import PatternNouns
    from index_build.captions import chosen_captions, load_sentence_model, select_captions, write_captions

    columns = {name: options[name] for name in ("caption_column", "id_column", "nouns_column")}
    source = open_captions(captions, CaptionColumns(**columns))
    if str(out.resolve()) in source.files:
        raise click.BadParameter("is one of the files that are read", param_hint="--out")
    with ProgressBar(" captions") as bar:
        selection = select_captions(
            source,
            options["budget"],
            load_sentence_model(options["model"], options["device"]),
            PatternNouns(),
            vocabulary=parse_classes(options["vocabulary"]) if options["vocabulary"] else (),
            similarity=options["similarity"],
            seed=options["seed"],
            progress=bar.count,
        )
    count = write_captions(chosen_captions(source, selection), out, overwrite=options["overwrite"])
    click.echo(
        f"{out}: {count:,} of {selection.captions:,} captions, {len(selection.nouns):,} nouns "
        f"({selection.repeats:,} repeats and {selection.without_nouns:,} without nouns left out)"
    )
    if selection.uncovered:
        click.echo(f"in no caption: {', '.join(selection.uncovered)}")
