"""`freeda index`: info, verify, append, merge, subset, dedupe, import-upstream, and what lies beside here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from freeda.commands.add_images import add_images_command
from freeda.commands.edited import edited_text
from freeda.commands.options import (
    DEVICE,
    FACTORY,
    INDEX_DEVICE,
    OUT,
    OVERWRITE,
    SCHEDULER,
    TRUST,
    WORKERS,
    column_options,
    read_lines,
)
from freeda.commands.progress_bar import ProgressBar
from freeda.commands.sharing import pull_command, push_command
from freeda.errors import printable

__all__ = ["index_group"]


@click.group("index")
def index_group() -> None:
    """Inspect prototype indexes, and make new ones from them."""


@index_group.command("info")
@click.argument("name", default="toy")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def index_info(name: str, as_json: bool) -> None:
    """Show what the index NAME (default: toy) holds and what it was built with."""
    from dataclasses import asdict

    from freeda.index.reader import PrototypeIndex
    from freeda.records import PHOTOGRAPH

    index = PrototypeIndex.open(name)
    manifest = index.manifest
    if as_json:
        click.echo(json.dumps(asdict(manifest), indent=2))
        return
    nouns = list(index.noun_counts().items())
    click.echo(f"{index.folder}")
    if index.source is not None:
        click.echo(f"fetched from {index.source}")
    click.echo(
        f"{manifest.prototypes:,} prototypes of {manifest.nouns:,} nouns from {manifest.captions:,} captions"
    )
    if photographs := index.source_counts().get(PHOTOGRAPH):
        click.echo(f"{photographs:,} of them are of photographs")
    click.echo(
        f"preset {printable(str(manifest.preset['name']))}, keys {manifest.key_dim}-d, vectors "
        f"{manifest.vector_dim}-d"
    )
    click.echo(f"searched as {printable(manifest.factory)}, recall {manifest.recall:.3f}")
    shown = ", ".join(f"{printable(noun)} ({count})" for noun, count in nouns[:20])
    click.echo(f"most frequent: {shown}")


@index_group.command("verify")
@click.argument("name", default="toy")
def index_verify(name: str) -> None:
    """Check every file of an index against its digest, and that it can be read."""
    from freeda.index.reader import PrototypeIndex

    index = PrototypeIndex.open(name, verify=True)
    index.read_everything()
    click.echo(f"{index.folder}: {len(index.manifest.files)} files as they were written")


@index_group.command("append", context_settings={"show_default": True})
@click.argument("name")
@click.argument("captions")
@column_options
@click.option("--tagger", help="What finds nouns.  [default: what the index was built with]")
@WORKERS
@SCHEDULER
@DEVICE
@INDEX_DEVICE
@TRUST
def index_append(
    name: str, captions: str, tagger: str | None, trust_models: bool | None, **options: Any
) -> None:
    """Add the prototypes of CAPTIONS to the index NAME, with the preset and seed it was built with.

    Run the same command again after an interruption: it resumes.
    """
    from index_build import Resources
    from index_build.append import append
    from index_build.config import CaptionColumns

    names = ("caption_column", "id_column", "nouns_column")
    columns = CaptionColumns(**{key: options.pop(key) for key in names})
    with ProgressBar(" captions") as bar:
        done = append(
            name,
            captions,
            columns,
            tagger=tagger,
            resources=Resources(**options),
            trust_models=bool(trust_models),
            on_progress=bar.update,
        )
    new = f"{done.addition.prototypes:,} of them new" if done.addition else f"nothing new: {done.note}"
    click.echo(edited_text(name, done.manifest, new))


@index_group.command("merge")
@click.argument("names", nargs=-1, required=True)
@OUT
@OVERWRITE
@FACTORY
@INDEX_DEVICE
def index_merge(
    names: tuple[str, ...], out: Path, overwrite: bool, factory: str | None, index_device: str
) -> None:
    """Join the indexes NAMES, built with the same models, into one."""
    from freeda.index.editing import merge
    from freeda.index.keys import KeyOptions
    from freeda.index.reader import PrototypeIndex

    indexes = [PrototypeIndex.open(name, verify=True) for name in names]
    done = merge(indexes, out, keys=KeyOptions(factory=factory, device=index_device), overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} were in more than one index"))


@index_group.command("subset")
@click.argument("name")
@OUT
@OVERWRITE
@click.option("--nouns", default="", help='Nouns to keep: "cat, dog", or a .txt file with one per line.')
@click.option("--caption-ids", type=click.Path(path_type=Path), help="File with one caption id per line.")
@FACTORY
@INDEX_DEVICE
def index_subset(
    name: str, out: Path, nouns: str, caption_ids: Path | None, overwrite: bool, **options: Any
) -> None:
    """Keep only some nouns or captions of the index NAME."""
    from freeda.index.editing import subset
    from freeda.index.keys import KeyOptions
    from freeda.index.reader import PrototypeIndex

    if not nouns and caption_ids is None:
        raise click.UsageError("name what to keep with --nouns or --caption-ids")
    listed = (
        read_lines(Path(nouns)) if nouns.endswith(".txt") else [item.strip() for item in nouns.split(",")]
    )
    ids = read_lines(caption_ids) if caption_ids else []
    index = PrototypeIndex.open(name, verify=True)
    done = subset(
        index,
        out,
        nouns=[item for item in listed if item],
        caption_ids=ids,
        keys=KeyOptions(factory=options["factory"], device=options["index_device"]),
        overwrite=overwrite,
    )
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} left out"))


@index_group.command("dedupe", context_settings={"show_default": True})
@click.argument("name")
@OUT
@OVERWRITE
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1),
    default=0.98,
    help="Cosine similarity, of text and image, above which prototypes are duplicates.",
)
@FACTORY
@INDEX_DEVICE
def index_dedupe(name: str, out: Path, similarity: float, overwrite: bool, **options: Any) -> None:
    """Leave out prototypes of the index NAME that duplicate another one of the same noun."""
    from freeda.index.editing import dedupe
    from freeda.index.keys import KeyOptions
    from freeda.index.reader import PrototypeIndex

    index = PrototypeIndex.open(name, verify=True)
    keys = KeyOptions(factory=options["factory"], device=options["index_device"])
    done = dedupe(index, out, similarity=similarity, keys=keys, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} repeats left out"))


@index_group.command("import-upstream", context_settings={"show_default": True})
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("knn_index", type=click.Path(path_type=Path))
@OUT
@click.option("--preset", default="sd21-vitl", help="Preset whose CLIP and backbone made the prototypes.")
@OVERWRITE
def index_import_upstream(embeddings: Path, knn_index: Path, out: Path, preset: str, overwrite: bool) -> None:
    """Import the prototypes that FreeDA's authors published: EMBEDDINGS, a folder of .npy files, and
    KNN_INDEX, the FAISS file of their keys.
    """
    from freeda.presets import load_preset
    from index_build.upstream import import_upstream

    with ProgressBar(" vectors") as bar:
        manifest = import_upstream(
            embeddings, knn_index, out, load_preset(preset), overwrite=overwrite, on_progress=bar.advance
        )
    click.echo(f"index       {out}")
    click.echo(f"prototypes  {manifest.prototypes:,}")
    click.echo(f"rejects     {manifest.rejects:,}")


index_group.add_command(add_images_command)
index_group.add_command(pull_command)
index_group.add_command(push_command)
