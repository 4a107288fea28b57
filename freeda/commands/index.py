"""`freeda index`: info, verify, append, merge, subset, dedupe, import-upstream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from freeda.commands.options import FACTORY, OUT, OVERWRITE, column_options, read_lines
from freeda.commands.progress_bar import ProgressBar, edited_text

__all__ = ["index_group"]


@click.group("index")
def index_group() -> None:
    """Look into prototype indexes, and make new ones of them."""


@index_group.command("info")
@click.argument("name", default="toy")
@click.option("--json", "as_json", is_flag=True)
def index_info(name: str, as_json: bool) -> None:
    """Say what an index holds and what it was built with."""
    from dataclasses import asdict

    from freeda.index.reader import PrototypeIndex

    index = PrototypeIndex.open(name)
    manifest = index.manifest
    if as_json:
        click.echo(json.dumps(asdict(manifest), indent=2))
        return
    nouns = list(index.noun_counts().items())
    click.echo(f"{index.folder}")
    click.echo(
        f"{manifest.prototypes:,} prototypes of {manifest.nouns:,} nouns from {manifest.captions:,} captions"
    )
    click.echo(
        f"preset {manifest.preset['name']}, keys {manifest.key_dim}-d, vectors {manifest.vector_dim}-d"
    )
    click.echo(f"searched as {manifest.factory}, recall {manifest.recall:.3f}")
    click.echo("most frequent: " + ", ".join(f"{noun} ({count})" for noun, count in nouns[:20]))


@index_group.command("verify")
@click.argument("name", default="toy")
def index_verify(name: str) -> None:
    """Check every file of an index against its digest."""
    from freeda.index.reader import PrototypeIndex

    index = PrototypeIndex.open(name, verify=True)
    click.echo(f"{index.folder}: {len(index.manifest.files)} files as they were written")


@index_group.command("append", context_settings={"show_default": True})
@click.argument("name")
@click.argument("captions")
@column_options
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine; else one a GPU.")
@click.option("--scheduler", help="Use a running Dask cluster: tcp://HOST:PORT or a scheduler file.")
@click.option("--device", default="auto")
def index_append(name: str, captions: str, **options: Any) -> None:
    """Add the prototypes of CAPTIONS to the index NAME, with the preset and the seed it was built with.

    Run the same command again after an interruption: it goes on where it stopped.
    """
    from index_build.append import append
    from index_build.config import CaptionColumns

    names = ("caption_column", "id_column", "nouns_column")
    columns = CaptionColumns(**{key: options.pop(key) for key in names})
    with ProgressBar(" captions") as bar:
        done = append(name, captions, columns, report=bar.update, **options)
    new = f"{done.addition.prototypes:,} of them new" if done.addition else f"nothing new: {done.note}"
    click.echo(edited_text(name, done.manifest, new))


@index_group.command("merge")
@click.argument("names", nargs=-1, required=True)
@OUT
@OVERWRITE
@click.option("--factory", help=FACTORY)
def index_merge(names: tuple[str, ...], out: Path, overwrite: bool, factory: str | None) -> None:
    """Join the indexes NAMES, built with the same models, into one."""
    from freeda.index.reader import PrototypeIndex
    from freeda.index.editing import merge

    indexes = [PrototypeIndex.open(name, verify=True) for name in names]
    done = merge(indexes, out, factory=factory, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} were in more than one index"))


@index_group.command("subset")
@click.argument("name")
@OUT
@OVERWRITE
@click.option("--nouns", default="", help='Nouns to keep: "cat, dog", or a .txt file with one a line.')
@click.option("--caption-ids", type=click.Path(path_type=Path), help="File with a caption id a line.")
def index_subset(name: str, out: Path, overwrite: bool, nouns: str, caption_ids: Path | None) -> None:
    """Take only some nouns or captions of the index NAME."""
    from freeda.index.reader import PrototypeIndex
    from freeda.index.editing import subset

    if not nouns and caption_ids is None:
        raise click.UsageError("name what to keep with --nouns or --caption-ids")
    listed = (
        read_lines(Path(nouns)) if nouns.endswith(".txt") else [item.strip() for item in nouns.split(",")]
    )
    ids = read_lines(caption_ids) if caption_ids else []
    index = PrototypeIndex.open(name, verify=True)
    done = subset(index, out, nouns=[item for item in listed if item], caption_ids=ids, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} left out"))


@index_group.command("dedupe", context_settings={"show_default": True})
@click.argument("name")
@OUT
@OVERWRITE
@click.option(
    "--similarity", type=click.FloatRange(0, 1), default=0.98, help="From which on two are one, as a cosine."
)
def index_dedupe(name: str, out: Path, overwrite: bool, similarity: float) -> None:
    """Leave out prototypes of the index NAME that repeat one of the same noun in text and looks."""
    from freeda.index.reader import PrototypeIndex
    from freeda.index.editing import dedupe

    index = PrototypeIndex.open(name, verify=True)
    done = dedupe(index, out, similarity=similarity, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} repeats left out"))


@index_group.command("import-upstream", context_settings={"show_default": True})
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("knn_index", type=click.Path(path_type=Path))
@OUT
@click.option("--preset", default="sd21-vitl", help="Whose CLIP and backbone made the prototypes.")
@OVERWRITE
def index_import_upstream(embeddings: Path, knn_index: Path, out: Path, preset: str, overwrite: bool) -> None:
    """Take over the prototypes that FreeDA's authors published: EMBEDDINGS, a folder of .npy files,
    and KNN_INDEX, the FAISS file of their keys.
    """
    from freeda.presets import load_preset
    from index_build.upstream import import_upstream

    with ProgressBar(" vectors") as bar:
        manifest = import_upstream(
            embeddings, knn_index, out, load_preset(preset), overwrite=overwrite, progress=bar.advance
        )
    click.echo(f"index       {out}")
    click.echo(f"prototypes  {manifest.prototypes:,}")
    click.echo(f"rejects     {manifest.rejects:,}")
