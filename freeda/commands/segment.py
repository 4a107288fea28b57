"""`freeda segment`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import asking_for_trust, method_options, taken_method_options
from freeda.commands.paths import out_folder
from freeda.commands.segment_job import Job, Point, Wanted, planned_files
from freeda.commands.segment_media import RasterWork, VideoWork
from freeda.media import GEOTIFF, VIDEO_ENDINGS
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
@click.option(
    "--format",
    "formats",
    default="labels,overlay",
    help=f"Any of {', '.join(FORMATS)}, separated by commas; or {GEOTIFF} alone, for rasters of any size, "
    "at their own resolution.",
)
@click.option(
    "--instances", is_flag=True, help=f"One segment per connected piece, in {', '.join(SEGMENT_FORMATS)}."
)
@click.option(
    "--image-prefix",
    default="",
    show_default=False,
    help="Put before image names in COCO and Label Studio files, such as /data/local-files/?d=images/.",
)
@click.option(
    "--bands",
    help="For rasters: the bands to use as red, green and blue, such as 4,3,2, or one gray band.  "
    "[default: 1,2,3]",
)
@click.option("--every", metavar="N", type=click.IntRange(1), default=1, help="For videos: every Nth frame.")
@click.option(
    "--max-pixels", type=click.IntRange(1), default=MAX_PIXELS, help="Refuse image files with more pixels."
)
@click.option(
    "--recursive", is_flag=True, help="Take images in folders within folders too; results keep the folders."
)
@click.option("--overwrite", is_flag=True, help="Segment images again that have results already.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, one line per image.")
def segment_command(images: tuple[Path, ...], classes: str, out: Path, **options: Any) -> None:
    """Segment IMAGES (image files, folders of images, or video files) into the classes named.

    Run the same command again after an interruption: finished images, rasters and videos are skipped.
    """
    from freeda.class_names import parse_classes

    chosen = taken_method_options(options)
    what = _wanted(options)
    if GEOTIFF in what.formats:
        chosen["native"] = True
    bands = _parse_bands(options["bands"], what.formats)
    parsed = parse_classes(classes)
    if what.points and any(map(_is_video, images)):
        raise click.BadParameter(
            "frames of videos are not explained; save one as an image", param_hint="--explain"
        )
    planned = planned_files(images, out, recursive=options["recursive"])
    model = _load(chosen, options["neighbors"], options["background"])
    model.set_classes(parsed)
    if what.points and not model.explains:
        raise click.BadParameter("this method cannot explain its results", param_hint="--explain")
    job = Job(
        planned,
        out,
        what,
        made_by=[vars(what), model.identity, [item.names for item in parsed]],
        apart=(lambda path: True) if GEOTIFF in what.formats else _is_video,
        apart_by=[bands, options["every"]],
    )
    if not options["overwrite"]:
        job.skip_finished()
    for result in model.stream(job.images, on_error=job.note_failure, max_pixels=options["max_pixels"]):
        job.save(result)
    job.run_apart(
        RasterWork(model, bands) if GEOTIFF in what.formats else VideoWork(model, what, options["every"])
    )
    if not job.succeeded():
        sys.exit(1)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_ENDINGS


def _wanted(options: dict[str, Any]) -> Wanted:
    """What is asked for of every image; raises `click.BadParameter` for what does not go together."""
    formats = _parse_formats(options["formats"])
    points = tuple(_parse_point(text) for text in options["explain"])
    if options["instances"] and not set(formats) & set(SEGMENT_FORMATS):
        raise click.BadParameter(
            f"it is for segments; add a --format of {', '.join(SEGMENT_FORMATS)}", param_hint="--instances"
        )
    if GEOTIFF in formats and (len(formats) > 1 or points):
        raise click.BadParameter(
            f"{GEOTIFF} stands alone: a raster may be larger than memory; leave out other formats and "
            f"--explain",
            param_hint="--format",
        )
    return Wanted(
        tuple(sorted(formats)),
        points,
        as_json=options["as_json"],
        instances=options["instances"],
        image_prefix=options["image_prefix"],
    )


def _parse_bands(text: str | None, formats: tuple[str, ...]) -> tuple[int, ...]:
    if text is None:
        return ()
    if GEOTIFF not in formats:
        raise click.BadParameter(f"it is for rasters; add --format {GEOTIFF}", param_hint="--bands")
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(
            f"{text!r}; expected three numbers such as 4,3,2, or one", param_hint="--bands"
        )
    return tuple(map(int, parts))


def _load(chosen: dict[str, Any], neighbors: int | None, background: bool) -> Segmenter:
    from freeda.methods import load

    implied = any(chosen[name] is not None for name in ("background_concepts", "threshold"))
    trust = chosen.pop("trust_models")
    options = {"neighbors": neighbors, **chosen, "background": background or implied}
    return asking_for_trust(lambda trusted: load(**options, trust_models=trusted), trust)


def _parse_formats(formats: str) -> tuple[str, ...]:
    wanted = tuple(item.strip() for item in formats.split(",") if item.strip())
    known = (*FORMATS, GEOTIFF)
    if not wanted or any(item not in known for item in wanted):
        raise click.BadParameter(f"{formats!r}; expected any of {','.join(known)}", param_hint="--format")
    return wanted


def _parse_point(text: str) -> Point:
    if text == "all":
        return None
    column, comma, row = text.partition(",")
    if not (comma and column.strip().isdecimal() and row.strip().isdecimal()):
        raise click.BadParameter(f"{text!r}; expected X,Y in pixels, or all", param_hint="--explain")
    return int(column), int(row)
