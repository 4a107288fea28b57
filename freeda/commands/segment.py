"""`freeda segment`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import method_options, taken_method_options
from freeda.commands.paths import out_folder
from freeda.errors import FreedaError
from freeda.segmentation import FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from freeda.methods.base import Segmenter
    from freeda.segmentation.result import Segmentation

__all__ = ["segment_command"]

_Point = tuple[int, int] | None
"""Column and row of a pixel; None for one pixel per class found."""


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
@click.option("--instances", is_flag=True, help="In COCO files, one annotation per connected piece.")
@click.option(
    "--max-pixels", type=click.IntRange(1), default=MAX_PIXELS, help="Refuse image files with more pixels."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, one line per image.")
def segment_command(images: tuple[Path, ...], classes: str, out: Path, **options: Any) -> None:
    """Segment IMAGES (files or folders) into the classes named."""
    from freeda.class_names import parse_classes

    chosen = taken_method_options(options)
    wanted = _parse_formats(options.pop("formats"))
    points = [_parse_point(text) for text in options.pop("explain")]
    as_json = options.pop("as_json")
    parsed = parse_classes(classes)
    files = _image_files(images)
    _require_apart(files, out)
    model = _load(chosen, options["neighbors"], options["background"])
    model.set_classes(parsed)
    if points and not model.explains:
        raise click.BadParameter("this method cannot explain its results", param_hint="--explain")
    job = _Job(files, out, wanted, points, as_json=as_json, instances=options["instances"])
    for result in model.stream(files, on_error=job.note_failure, max_pixels=options["max_pixels"]):
        job.save(result)
    if not job.succeeded():
        sys.exit(1)


def _load(chosen: dict[str, Any], neighbors: int | None, background: bool) -> Segmenter:
    from freeda.methods import load

    implied = any(chosen[name] is not None for name in ("background_concepts", "threshold"))
    return load(**{"neighbors": neighbors, **chosen}, background=background or implied)


class _Job:
    """Saves results as they come, and remembers what failed."""

    def __init__(
        self,
        files: Sequence[Path],
        out: Path,
        formats: Sequence[str],
        points: Sequence[_Point],
        *,
        as_json: bool,
        instances: bool,
    ) -> None:
        self._files, self._out, self._formats = files, out, formats
        self._points, self._as_json, self._instances = points, as_json, instances
        self._names = iter(_unique_stems(files))
        self._failed: set[object] = set()
        self._unexplained = 0

    def note_failure(self, path: object, error: FreedaError) -> None:
        click.echo(f"error: {error}", err=True)
        self._failed.add(path)

    def save(self, result: Segmentation) -> None:
        stem, path = next(item for item in self._names if item[1] not in self._failed)
        try:
            written = result.save(self._out, stem, self._formats, instances=self._instances)
        except Exception as error:  # one image costs no other
            self.note_failure(path, _told(path, error))
            return
        for x, y in _chosen_points(self._points, result):
            try:
                written += result.explain(x, y).save(self._out, stem)
            except Exception as error:
                click.echo(f"error: {path}: {_told(path, error)}", err=True)
                self._unexplained += 1
        click.echo((_result_json if self._as_json else _result_text)(path, result, written))

    def succeeded(self) -> bool:
        if self._failed:
            click.echo(f"{len(self._failed)} of {len(self._files)} images failed", err=True)
        return not self._failed and not self._unexplained


def _told(path: Path, error: Exception) -> FreedaError:
    from freeda.segmentation.images import as_image_error

    return error if isinstance(error, FreedaError) else as_image_error(path, error)


def _result_text(path: Path, result: Segmentation, written: Sequence[Path]) -> str:
    found = ", ".join(f"{item['label']} {item['share']:.0%}" for item in result.segments_info)
    return f"{path}: {found or 'nothing decided'}  ->  {', '.join(str(item) for item in written)}"


def _result_json(path: Path, result: Segmentation, written: Sequence[Path]) -> str:
    files = [str(item) for item in written]
    return json.dumps(
        {"image": str(path), "segments": result.segments_info, "files": files}, ensure_ascii=False
    )


def _parse_formats(formats: str) -> tuple[str, ...]:
    wanted = tuple(item.strip() for item in formats.split(",") if item.strip())
    unknown = [item for item in wanted if item not in FORMATS]
    if unknown or not wanted:
        raise click.BadParameter(f"{formats!r}; expected any of {','.join(FORMATS)}", param_hint="--format")
    return wanted


def _parse_point(text: str) -> _Point:
    if text == "all":
        return None
    column, comma, row = text.partition(",")
    if not (comma and column.strip().isdecimal() and row.strip().isdecimal()):
        raise click.BadParameter(f"{text!r}; expected X,Y in pixels, or all", param_hint="--explain")
    return int(column), int(row)


def _chosen_points(points: Sequence[_Point], result: Segmentation) -> list[tuple[int, int]]:
    named = [point for point in points if point is not None]
    return [*named, *result.inner_points().values()] if None in points else named


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Files as they are, folders by the images in them."""
    from freeda.errors import ImageError
    from freeda.segmentation.images import IMAGE_ENDINGS

    files: list[Path] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(item for item in path.iterdir() if item.suffix.lower() in IMAGE_ENDINGS)
        if not found:
            raise ImageError(f"folder '{path}' holds no images")
        files += found
    return files


def _require_apart(files: Sequence[Path], out: Path) -> None:
    """Refuses results beside the images: they would replace some, and be segmented themselves the next
    time.
    """
    if any(path.parent.resolve() == out.resolve() for path in files):
        raise click.BadParameter(f"'{out}' holds the images; name another folder", param_hint="--out")


def _unique_stems(files: Sequence[Path]) -> list[tuple[str, Path]]:
    """Output names: the file's stem, numbered where two inputs share it."""
    named: dict[str, Path] = {}
    for path in files:
        candidates = (f"{path.stem}-{number}" if number > 1 else path.stem for number in count(1))
        named[next(name for name in candidates if name not in named)] = path
    return list(named.items())
