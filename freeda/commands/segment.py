"""`freeda segment`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import BACKGROUND_CONCEPTS
from freeda.errors import FreedaError
from freeda.commands.progress_bar import result_json, result_text

if TYPE_CHECKING:
    from freeda.segmentation.result import Segmentation

__all__ = ["segment_command"]

_FORMATS = ("labels", "overlay", "npz")


@click.command("segment", context_settings={"show_default": True})
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--classes", required=True, help='"cat,kitten; dog; grass", or a .txt file with a class a line.'
)
@click.option("--index", default="toy", help="Index name or folder.")
@click.option("--method", default="freeda")
@click.option("--background", is_flag=True, help="Answer background where no class is likely enough.")
@click.option("--background-concepts", metavar="LIST", help=f"{BACKGROUND_CONCEPTS}; implies --background.")
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
    from freeda.class_names import parse_classes

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
