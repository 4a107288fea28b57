"""`freeda captions`: from-coco, from-classes, select."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freeda.commands.options import DEVICE, TAGGER, column_options
from freeda.commands.progress_bar import ProgressBar

__all__ = ["captions_group"]


@click.group("captions")
def captions_group() -> None:
    """Get captions for a build: from COCO, from class names, or selected from very many."""


_OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace the file --out.")


@captions_group.command("from-coco")
@click.argument("annotations", type=click.Path(path_type=Path))
@_OUT
@_OVERWRITE
def captions_from_coco_command(annotations: Path, out: Path, overwrite: bool) -> None:
    """Convert COCO's ANNOTATIONS, such as captions_train2017.json, to parquet."""
    from index_build.captions.coco import captions_from_coco
    from index_build.captions.writing import write_captions

    count = write_captions(captions_from_coco(annotations), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions")


@captions_group.command("from-classes", context_settings={"show_default": True})
@click.argument("classes")
@_OUT
@_OVERWRITE
@click.option("--per-class", type=click.IntRange(1), default=50, help="Captions per class.")
@click.option("--seed", type=int, default=0, help="Seed of random choices.")
def captions_from_classes_command(
    classes: str, out: Path, overwrite: bool, per_class: int, seed: int
) -> None:
    """Compose varied captions about CLASSES: "cat,kitten; dog; grass", or a .txt file with one per line."""
    from freeda.class_names import parse_classes
    from index_build.captions.compose import compose_captions
    from index_build.captions.writing import write_captions

    parsed = parse_classes(classes)
    count = write_captions(compose_captions(parsed, per_class, seed), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions about {len(parsed):,} classes")


@captions_group.command("select", context_settings={"show_default": True})
@click.argument("captions")
@_OUT
@_OVERWRITE
@click.option("--budget", type=click.IntRange(1), required=True, help="How many captions to choose.")
@click.option("--vocabulary", help='Cover only these names: "cat; dog", or a .txt file with one per line.')
@click.option("--model", default="all-MiniLM-L6-v2", help="sentence-transformers model, by id or folder.")
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1),
    default=0.9,
    help="Cosine similarity above which captions are duplicates.",
)
@column_options
@TAGGER
@click.option("--seed", type=int, default=0, help="Seed of random choices.")
@DEVICE
def captions_select_command(captions: str, out: Path, **options: Any) -> None:
    """Choose captions from CAPTIONS (a parquet file, a folder of them, or a glob): near-duplicates are left
    out, nouns are covered evenly.
    """
    from index_build.captions.taggers import check_tagger, open_tagger
    from index_build.captions.writing import require_new, write_captions

    check_tagger(options["tagger"])
    require_new(out, overwrite=options["overwrite"])
    from freeda.class_names import parse_classes
    from freeda.models.sentences import load_sentence_model
    from index_build.captions.nouns import NounFinder
    from index_build.captions.reader import open_captions
    from index_build.captions.selection import SelectionSettings, chosen_captions, select_captions
    from index_build.config import CaptionColumns

    find_nouns = NounFinder(open_tagger(options["tagger"]))
    columns = {name: options[name] for name in ("caption_column", "id_column", "nouns_column")}
    source = open_captions(captions, CaptionColumns(**columns))
    if str(out.resolve()) in source.files:
        raise click.BadParameter("is one of the files that are read", param_hint="--out")
    settings = SelectionSettings(
        budget=options["budget"],
        vocabulary=parse_classes(options["vocabulary"]) if options["vocabulary"] else (),
        similarity=options["similarity"],
        seed=options["seed"],
    )
    embed = load_sentence_model(options["model"], options["device"])
    with ProgressBar(" captions") as bar:
        selection = select_captions(source, settings, embed, find_nouns, bar.count)
    count = write_captions(chosen_captions(source, selection), out, overwrite=options["overwrite"])
    click.echo(
        f"{out}: {count:,} of {selection.captions:,} captions, {len(selection.nouns):,} nouns "
        f"({selection.repeats:,} duplicates and {selection.without_nouns:,} without nouns left out)"
    )
    if selection.untagged:
        click.echo(f"{selection.untagged:,} of those without nouns could not be tagged")
    if selection.uncovered:
        click.echo(f"not covered: {', '.join(selection.uncovered)}")
