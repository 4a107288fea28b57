"""The command line. Heavy imports live inside the commands: `freeda --help` answers at once."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.errors import FreedaError
from freeda.terminal import (
    ProgressBar,
    edited_text,
    estimate_json,
    estimate_text,
    result_json,
    result_text,
    summary_json,
    summary_text,
)

if TYPE_CHECKING:
    from freeda.segmentation import Segmentation

__all__ = ["main"]

_FORMATS = ("labels", "overlay", "npz")
_FACTORY = "FAISS factory of the keys, such as IVF4096_HNSW32,SQ8; else by their number."
_RUN_OPTIONS = ("workers", "threads", "scheduler", "device", "factory", "overwrite")
_CONCEPTS = 'What the background is made of: "sky; wall", a .txt file, usual or none; else the preset\'s'


class _Commands(click.Group):
    """Reports errors as one line with exit code 1; the traceback is behind `--debug`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FreedaError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            # The last resort: whatever nobody foresaw is one line too, with the way to see more.
            if ctx.params.get("debug"):
                traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            click.echo(
                f"error: unexpected {type(error).__name__}: {first}; `freeda --debug ...` shows where",
                err=True,
            )
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to go on", err=True)
            ctx.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="freeda")
def main(debug: bool) -> None:
    """Open-vocabulary segmentation by retrieval: build a prototype index once, then segment
    anything by name.
    """
    _quiet_libraries(debug)


@main.command("build-index", context_settings={"show_default": True})
@click.argument("captions")
@click.option("--out", required=True, help="Folder of the index, a path or a URL.")
@click.option("--preset", default="toy", help="Preset name or .toml file; see `freeda presets`.")
@click.option("--caption-column", help="Column with the captions.")
@click.option("--id-column", help="Column with their ids; else derived from the text.")
@click.option("--nouns-column", help="Column with lists of nouns; skips tagging.")
@click.option("--limit", type=click.IntRange(1), help="Take only so many captions.")
@click.option("--seed", type=int, default=0)
@click.option("--shard-size", type=click.IntRange(1), default=32, help="Captions a task.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine; else one a GPU.")
@click.option("--threads", type=click.IntRange(1), help="Of each process; else a share of the cores.")
@click.option("--scheduler", help="Use a running Dask cluster: tcp://HOST:PORT or a scheduler file.")
@click.option("--device", default="auto")
@click.option("--factory", help=_FACTORY)
@click.option("--overwrite", is_flag=True, help="Replace another index in --out.")
@click.option("--dry-run", is_flag=True, help="Try a few captions here and say what all would cost.")
@click.option(
    "--progress-log",
    type=click.Path(path_type=Path),
    help="File for progress as JSON lines; else progress.jsonl in --out, where that is a folder here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def build_index_command(captions: str, out: str, preset: str, **options: Any) -> None:
    """Build a prototype index from CAPTIONS, a parquet file, a folder of them, or a glob; a path or a
    URL such as s3://BUCKET/captions.

    Run the same command again after an interruption: it goes on where it stopped.
    """
    from freeda.presets import load_preset
    from index_build import BuildConfig, build_index
    from index_build.estimate import estimate_build
    from index_build.progress import log_progress

    config = BuildConfig(
        preset=load_preset(preset),
        **{
            name: options[name]
            for name in ("caption_column", "id_column", "nouns_column", "limit", "seed", "shard_size")
        },
    )
    if options["dry_run"]:
        estimate = estimate_build(captions, config, device=options["device"])
        click.echo(estimate_json(estimate) if options["as_json"] else estimate_text(estimate))
        return
    log = options["progress_log"] or (None if "://" in out else Path(out) / "progress.jsonl")
    with ProgressBar(" captions") as bar:
        summary = build_index(
            captions,
            out,
            config,
            report=log_progress(log, bar.update) if log else bar.update,
            **{
                name: options[name]
                for name in ("workers", "threads", "scheduler", "device", "factory", "overwrite")
            },
        )
    click.echo(summary_json(summary) if options["as_json"] else summary_text(summary))


@main.command("segment", context_settings={"show_default": True})
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--classes", required=True, help='"cat,kitten; dog; grass", or a .txt file with a class a line.'
)
@click.option("--index", default="toy", help="Index name or folder.")
@click.option("--method", default="freeda")
@click.option("--background", is_flag=True, help="Answer background where no class is likely enough.")
@click.option("--background-concepts", metavar="LIST", help=f"{_CONCEPTS}; implies --background.")
@click.option("--neighbors", type=click.IntRange(1), help="Prototypes retrieved a class; else the preset's.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("segmented"))
@click.option(
    "--explain", multiple=True, metavar="X,Y|all", help="Say why: of a pixel, or of one pixel a class found."
)
@click.option("--format", "formats", default="labels,overlay", help=f"Any of {','.join(_FORMATS)}.")
@click.option("--preset", help="Take the models from this preset; else the index's own.")
@click.option("--recipe", default="default", help="default, or paper for the released code's algorithm.")
@click.option("--device", default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def segment_command(
    images: tuple[Path, ...],
    classes: str,
    index: str,
    method: str,
    out: Path,
    explain: tuple[str, ...],
    formats: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Segment IMAGES (files or folders) into the classes named."""
    from freeda.methods import load_method
    from freeda.text import parse_classes

    wanted = _parse_formats(formats)
    points = [_parse_point(text) for text in explain]
    parsed = parse_classes(classes)
    files = _image_files(images)
    options["background"] |= options["background_concepts"] is not None
    model = load_method(method, index=index, **options)
    model.set_classes(parsed)
    if points and not model.explains:
        raise click.BadParameter(f"method {method} retrieves no prototypes", param_hint="--explain")
    failed: set[Path] = set()
    unexplained = 0

    def report_failure(path: Path, error: FreedaError) -> None:
        click.echo(f"error: {error}", err=True)
        failed.add(path)

    named = iter(_unique_stems(files))
    for result in model.stream(files, on_error=report_failure):
        stem, path = next(item for item in named if item[1] not in failed)
        written = result.save(out, stem, wanted)
        for x, y in _chosen_points(points, result):
            try:
                written += result.explain(x, y).save(out, stem)
            except FreedaError as error:
                click.echo(f"error: {path}: {error}", err=True)
                unexplained += 1
        click.echo(result_json(path, result, written) if as_json else result_text(path, result, written))
    if failed:
        click.echo(f"{len(failed)} of {len(files)} images failed", err=True)
    if failed or unexplained:
        sys.exit(1)


@main.command("evaluate", context_settings={"show_default": True})
@click.argument("dataset")
@click.option(
    "--root", type=click.Path(path_type=Path), help="The data set's folder, or the one that holds it."
)
@click.option("--index", default="toy", help="Index name or folder.")
@click.option("--method", default="freeda")
@click.option("--recipe", default="default", help="default, or paper for the released code's algorithm.")
@click.option("--preset", help="Take the models from this preset; else the index's own.")
@click.option("--background-concepts", metavar="LIST", help=f"{_CONCEPTS}.")
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


@main.command("presets")
@click.option("--show", metavar="NAME", help="Print one preset as TOML, to start your own from.")
def presets_command(show: str | None) -> None:
    """List the presets, or print one as TOML."""
    from freeda.preset_files import to_toml
    from freeda.presets import PRESETS, load_preset

    if show:
        click.echo(to_toml(load_preset(show)))
        return
    for name, preset in PRESETS.items():
        click.echo(f"{name:16} {preset().description}")


@main.group("captions")
def captions_group() -> None:
    """Get captions for a build: from COCO, from class names, or the best of very many."""


_CAPTIONS_OUT = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Parquet file to write."
)
_CAPTIONS_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a file in the place of --out.")


@captions_group.command("from-coco")
@click.argument("annotations", type=click.Path(path_type=Path))
@_CAPTIONS_OUT
@_CAPTIONS_OVERWRITE
def captions_from_coco_command(annotations: Path, out: Path, overwrite: bool) -> None:
    """Turn COCO's ANNOTATIONS, such as captions_train2017.json, into parquet."""
    from index_build.preparation import captions_from_coco, write_captions

    count = write_captions(captions_from_coco(annotations), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions")


@captions_group.command("from-classes", context_settings={"show_default": True})
@click.argument("classes")
@_CAPTIONS_OUT
@_CAPTIONS_OVERWRITE
@click.option("--per-class", type=click.IntRange(1), default=50, help="Captions about each class.")
@click.option("--seed", type=int, default=0)
def captions_from_classes_command(
    classes: str, out: Path, overwrite: bool, per_class: int, seed: int
) -> None:
    """Compose varied captions about CLASSES: "cat,kitten; dog; grass", or a .txt file with a class a
    line.
    """
    from freeda.text import parse_classes
    from index_build.preparation import compose_captions, write_captions

    parsed = parse_classes(classes)
    count = write_captions(compose_captions(parsed, per_class, seed), out, overwrite=overwrite)
    click.echo(f"{out}: {count:,} captions about {len(parsed):,} classes")


@captions_group.command("select", context_settings={"show_default": True})
@click.argument("captions")
@_CAPTIONS_OUT
@_CAPTIONS_OVERWRITE
@click.option("--budget", type=click.IntRange(1), required=True, help="Captions to choose.")
@click.option("--vocabulary", help="Count only these names: a class list, or a .txt file of one.")
@click.option("--model", default="all-MiniLM-L6-v2", help="sentence-transformers model, by id or folder.")
@click.option(
    "--similarity", type=click.FloatRange(0, 1), default=0.9, help="From which on two captions are one."
)
@click.option("--caption-column", help="Column with the captions.")
@click.option("--id-column", help="Column with their ids; else derived from the text.")
@click.option("--nouns-column", help="Column with lists of nouns; skips tagging.")
@click.option("--seed", type=int, default=0)
@click.option("--device", default="auto")
def captions_select_command(captions: str, out: Path, **options: Any) -> None:
    """Choose from CAPTIONS, a parquet file, a folder of them, or a glob, those that cover the most:
    near-duplicates are left out, nouns are covered evenly.
    """
    from freeda.text import parse_classes
    from index_build.captions import open_captions
    from index_build.config import CaptionColumns
    from index_build.nouns import PatternNouns
    from index_build.preparation import (
        chosen_captions,
        load_sentence_model,
        select_captions,
        write_captions,
    )

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


_OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace another index in --out.")


@main.group("index")
def index_group() -> None:
    """Look into prototype indexes, and make new ones of them."""


@index_group.command("info")
@click.argument("name", default="toy")
@click.option("--json", "as_json", is_flag=True)
def index_info(name: str, as_json: bool) -> None:
    """Say what an index holds and what it was built with."""
    from dataclasses import asdict

    from freeda.index import PrototypeIndex

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
    from freeda.index import PrototypeIndex

    index = PrototypeIndex.open(name, verify=True)
    click.echo(f"{index.folder}: {len(index.manifest.files)} files as they were written")


@index_group.command("append", context_settings={"show_default": True})
@click.argument("name")
@click.argument("captions")
@click.option("--caption-column", help="Column with the captions.")
@click.option("--id-column", help="Column with their ids; else derived from the text.")
@click.option("--nouns-column", help="Column with lists of nouns; skips tagging.")
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
@_OUT
@_OVERWRITE
@click.option("--factory", help=_FACTORY)
def index_merge(names: tuple[str, ...], out: Path, overwrite: bool, factory: str | None) -> None:
    """Join the indexes NAMES, built with the same models, into one."""
    from freeda.index import PrototypeIndex
    from freeda.index_editing import merge

    indexes = [PrototypeIndex.open(name, verify=True) for name in names]
    done = merge(indexes, out, factory=factory, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} were in more than one index"))


@index_group.command("subset")
@click.argument("name")
@_OUT
@_OVERWRITE
@click.option("--nouns", default="", help='Nouns to keep: "cat, dog", or a .txt file with one a line.')
@click.option("--caption-ids", type=click.Path(path_type=Path), help="File with a caption id a line.")
def index_subset(name: str, out: Path, overwrite: bool, nouns: str, caption_ids: Path | None) -> None:
    """Take only some nouns or captions of the index NAME."""
    from freeda.index import PrototypeIndex
    from freeda.index_editing import subset

    if not nouns and caption_ids is None:
        raise click.UsageError("name what to keep with --nouns or --caption-ids")
    listed = _lines(Path(nouns)) if nouns.endswith(".txt") else [item.strip() for item in nouns.split(",")]
    ids = _lines(caption_ids) if caption_ids else []
    index = PrototypeIndex.open(name, verify=True)
    done = subset(index, out, nouns=[item for item in listed if item], caption_ids=ids, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} left out"))


@index_group.command("dedupe", context_settings={"show_default": True})
@click.argument("name")
@_OUT
@_OVERWRITE
@click.option(
    "--similarity", type=click.FloatRange(0, 1), default=0.98, help="From which on two are one, as a cosine."
)
def index_dedupe(name: str, out: Path, overwrite: bool, similarity: float) -> None:
    """Leave out prototypes of the index NAME that repeat one of the same noun in text and looks."""
    from freeda.index import PrototypeIndex
    from freeda.index_editing import dedupe

    index = PrototypeIndex.open(name, verify=True)
    done = dedupe(index, out, similarity=similarity, overwrite=overwrite)
    click.echo(edited_text(str(out), done.manifest, f"{done.dropped:,} repeats left out"))


@index_group.command("import-upstream", context_settings={"show_default": True})
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.argument("knn_index", type=click.Path(path_type=Path))
@_OUT
@click.option("--preset", default="sd21-vitl", help="Whose CLIP and backbone made the prototypes.")
@_OVERWRITE
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


def _quiet_libraries(debug: bool) -> None:
    """The model libraries' own progress bars and hints would drown this program's output."""
    if debug:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"'{path}' cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parse_formats(formats: str) -> tuple[str, ...]:
    wanted = tuple(item.strip() for item in formats.split(",") if item.strip())
    unknown = [item for item in wanted if item not in _FORMATS]
    if unknown or not wanted:
        raise click.BadParameter(f"{formats!r}; expected any of {','.join(_FORMATS)}", param_hint="--format")
    return wanted


def _parse_point(text: str) -> tuple[int, int] | None:
    """Column and row; None for one point a class found."""
    if text == "all":
        return None
    column, comma, row = text.partition(",")
    if not (comma and column.strip().isdecimal() and row.strip().isdecimal()):
        raise click.BadParameter(f"{text!r}; expected X,Y in pixels, or all", param_hint="--explain")
    return int(column), int(row)


def _chosen_points(points: Sequence[tuple[int, int] | None], result: Segmentation) -> list[tuple[int, int]]:
    named = [point for point in points if point is not None]
    return [*named, *result.inner_points().values()] if None in points else named


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Files as they are, folders by the pictures in them."""
    from freeda.errors import ImageError

    endings = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    files: list[Path] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(item for item in path.iterdir() if item.suffix.lower() in endings)
        if not found:
            raise ImageError(f"folder '{path}' holds no images")
        files += found
    return files


def _unique_stems(files: Sequence[Path]) -> list[tuple[str, Path]]:
    """Output names: the file's stem, numbered where two inputs share it."""
    named: dict[str, Path] = {}
    for path in files:
        candidates = (f"{path.stem}-{number}" if number > 1 else path.stem for number in count(1))
        named[next(name for name in candidates if name not in named)] = path
    return list(named.items())


if __name__ == "__main__":
    main()
