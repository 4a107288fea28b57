"""`freeda segment`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import method_options, taken_method_options
from freeda.commands.paths import out_folder
from freeda.commands.segment_job import Job, Point, Wanted, planned_images
from freeda.segmentation import FORMATS, MAX_PIXELS, SEGMENT_FORMATS

if TYPE_CHECKING:
    from freeda.methods.base import Segmenter

__all__ = ["segment_command"]


@click.command("segment", context_settings={"show_default": True})
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--classes", required=True, help='"cat,kitten; dog; grass", or a .txt file with one class per line.'
)
@method_options
@click.option("--background", is_flag=True, help="Label pixels of none of the classes as background.")
@click.option(
    "--neighbors",
    type=click.IntRange(1),
    help="Prototypes per class, for methods that retrieve.  [default: the preset's]",
)
@click.option("--out", callback=out_folder, default="segmented", help="Folder of the results.")
@click.option(
    "--explain",
    multiple=True,
    metavar="X,Y|all",
    help="Explain pixel X,Y (column, row), or one pixel of every class found; may be repeated.",
)
@click.option("--format", "formats", default="labels,overlay", help=f"Any of {','.join(FORMATS)}.")
@click.option(
    "--instances",
    is_flag=True,
    help=f"One segment per connected piece, in {', '.join(SEGMENT_FORMATS)}.",
)
@click.option(
    "--max-pixels", type=click.IntRange(1), default=MAX_PIXELS, help="Refuse image files with more pixels."
)
@click.option(
    "--recursive", is_flag=True, help="Take images in folders within folders too; results keep the folders."
)
@click.option("--overwrite", is_flag=True, help="Segment images again whose results are there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, one line per image.")
def segment_command(images: tuple[Path, ...], classes: str, out: Path, **options: Any) -> None:
    """Segment IMAGES (files or folders) into the classes named.

    Run the same command again after an interruption: it resumes.
    """
    from freeda.class_names import parse_classes

    chosen = taken_method_options(options)
    wanted = _parse_formats(options.pop("formats"))
    if options["instances"] and not set(wanted) & set(SEGMENT_FORMATS):
        raise click.BadParameter(
            f"it is for segments; add a --format of {', '.join(SEGMENT_FORMATS)}", param_hint="--instances"
        )
    points = [_parse_point(text) for text in options.pop("explain")]
    parsed = parse_classes(classes)
    planned = planned_images(images, out, recursive=options["recursive"])
    model = _load(chosen, options["neighbors"], options["background"])
    model.set_classes(parsed)
    if points and not model.explains:
        raise click.BadParameter("this method cannot explain its results", param_hint="--explain")
    what = Wanted(tuple(wanted), tuple(points), as_json=options["as_json"], instances=options["instances"])
    job = Job(planned, out, what, made_by=[model.identity, [item.names for item in parsed]])
    if not options["overwrite"]:
        job.skip_finished()
    for result in model.stream(job.images, on_error=job.note_failure, max_pixels=options["max_pixels"]):
        job.save(result)
    if not job.succeeded():
        sys.exit(1)


def _load(chosen: dict[str, Any], neighbors: int | None, background: bool) -> Segmenter:
    from freeda.methods import load

    implied = any(chosen[name] is not None for name in ("background_concepts", "threshold"))
    return load(**{"neighbors": neighbors, **chosen}, background=background or implied)


def _parse_formats(formats: str) -> tuple[str, ...]:
    wanted = tuple(item.strip() for item in formats.split(",") if item.strip())
    unknown = [item for item in wanted if item not in FORMATS]
    if unknown or not wanted:
        raise click.BadParameter(f"{formats!r}; expected any of {','.join(FORMATS)}", param_hint="--format")
    return wanted


def _parse_point(text: str) -> Point:
    if text == "all":
        return None
    column, comma, row = text.partition(",")
    if not (comma and column.strip().isdecimal() and row.strip().isdecimal()):
        raise click.BadParameter(f"{text!r}; expected X,Y in pixels, or all", param_hint="--explain")
    return int(column), int(row)
