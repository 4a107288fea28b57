"""Segmenting many files: which ones, where results go, what is finished, and what came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.finished import Finished, Planned
from freeda.errors import FreedaError

if TYPE_CHECKING:
    from freeda.segmentation.result import Segmentation

__all__ = ["Job", "Made", "Point", "Wanted", "planned_files"]

Point = tuple[int, int] | None
"""Column and row of a pixel; None for one pixel per class found."""
Made = tuple[list[Path], list[dict[str, Any]]]
"""The files written for a file segmented, and its segments."""
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Wanted:
    """What is saved and shown of every image. image_prefix: of images' names in files that name them."""

    formats: tuple[str, ...]
    points: tuple[Point, ...]
    as_json: bool = field(kw_only=True)
    instances: bool = field(kw_only=True)
    image_prefix: str = field(kw_only=True)


def planned_files(files: Sequence[Path], out: Path, *, recursive: bool) -> list[Planned]:
    """Files as they are, folders by the images in them; names are numbered where two would be the same.

    Raises `ImageError` for a folder without images, and `click.BadParameter` for results beside images: they
    would replace some, and be segmented themselves the next time.
    """
    own = out.resolve()
    if any((path if path.is_dir() else path.parent).resolve() == own for path in files):
        raise click.BadParameter(f"'{out}' holds the images; name another folder", param_hint="--out")
    found = [item for path in files for item in _in_path(path, out, recursive)]
    named: dict[Path, Planned] = {}
    for item in found:
        names = (item.name if n == 1 else item.name.with_name(f"{item.name.name}-{n}") for n in count(1))
        name = next(name for name in names if name not in named)
        named[name] = replace(item, name=name)
    return list(named.values())


def _in_path(path: Path, out: Path, recursive: bool) -> list[Planned]:
    from freeda.errors import ImageError
    from freeda.segmentation.images import IMAGE_ENDINGS

    if not path.is_dir():
        return [Planned.of(path, Path(path.stem))]
    inside = path.rglob("*") if recursive else path.iterdir()
    pictures = sorted(item for item in inside if item.suffix.lower() in IMAGE_ENDINGS)
    own = out.resolve()
    inside_path = own.is_relative_to(path.resolve())  # results may lie in a folder inside of the images' one
    files = [item for item in pictures if not (inside_path and item.resolve().is_relative_to(own))]
    if not files:
        deeper = "" if recursive else " (--recursive looks into its folders)"
        raise ImageError(f"folder '{path}' holds no images{deeper}")
    return [Planned.of(item, item.relative_to(path).with_suffix("")) for item in files]


class Job:
    """Saves results as they come, and remembers what failed.

    made_by: what results depend on besides the files themselves, as plain data.
    apart: which files are no images and go through `run_apart`, one by one.
    apart_by: what else their results depend on.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        out: Path,
        wanted: Wanted,
        *,
        made_by: Any,
        apart: Callable[[Path], bool],
        apart_by: Any,
    ) -> None:
        self._out, self._wanted = out, wanted
        self._total = len(planned)
        self._finished = Finished(out, made_by)
        self._finished_apart = Finished(out, [made_by, apart_by])
        self._apart = [item for item in planned if apart(item.path)]
        self._left = [item for item in planned if not apart(item.path)]
        self._failed = self._unexplained = self._done = 0
        self._pixels: dict[str, int] = {}

    @property
    def images(self) -> list[Path]:
        """Those that are to be segmented, in order."""
        return [item.path for item in self._left]

    def skip_finished(self) -> None:
        """Leaves out files that have their results, of the same file, classes, method and settings."""
        self._left = [item for item in self._left if not self._was_finished(item, self._finished)]
        self._apart = [item for item in self._apart if not self._was_finished(item, self._finished_apart)]
        if self._done:
            click.echo(f"{self._done} of {self._total} images were finished already", err=True)

    def _was_finished(self, item: Planned, finished: Finished) -> bool:
        entry = finished.entry(item)
        if entry is None:
            return False
        self._tell(item.path, entry["segments"], [self._out / name for name in entry["files"]], new=False)
        return True

    def note_failure(self, path: object, error: FreedaError) -> None:
        """Tells why an image has no result; results of images before it may still come."""
        self._left.remove(next(item for item in self._left if item.path == path))
        self._tell_failure(error)

    def _tell_failure(self, error: FreedaError) -> None:
        click.echo(f"error: {error}", err=True)
        self._failed += 1

    def save(self, result: Segmentation) -> None:
        """Writes the next image's result and tells it; an error costs no other image."""
        item = self._left.pop(0)
        folder, stem = self._out / item.name.parent, item.name.name
        image_name = (item.name.parent / item.path.name).as_posix()
        result = replace(result, file_name=f"{self._wanted.image_prefix}{image_name}")
        try:
            written = result.save(folder, stem, self._wanted.formats, instances=self._wanted.instances)
            explained = self._explain(item, result, folder)
            if explained is not None:
                self._finished.note(item, [*written, *explained], result.segments_info)
        except Exception as error:
            self._tell_failure(_told(item.path, error))
            return
        self._tell(item.path, result.segments_info, [*written, *(explained or ())])

    def run_apart(self, work: Callable[[Path, Path], Made]) -> None:
        """Runs each file that is no image through `work`, with its path and that of its results, without an
        ending; an error costs no other file.
        """
        for item in self._apart:
            target = self._out / item.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                files, segments = work(item.path, target)
                self._finished_apart.note(item, files, segments)
            except Exception as error:
                self._tell_failure(_told(item.path, error))
            else:
                self._tell(item.path, segments, files)

    def _explain(self, item: Planned, result: Segmentation, folder: Path) -> list[Path] | None:
        """The files of all points' evidence; None where one could not be explained."""
        written, failed = [], self._unexplained
        for x, y in _chosen_points(self._wanted.points, result):
            try:
                written += result.explain(x, y).save(folder, item.name.name)
            except Exception as error:
                click.echo(f"error: {item.path}: {_told(item.path, error)}", err=True)
                self._unexplained += 1
        return written if self._unexplained == failed else None

    def _tell(
        self, path: Path, segments: Sequence[dict[str, Any]], files: Sequence[Path], *, new: bool = True
    ) -> None:
        """Counts a file's classes and prints them; of one that was finished before, for scripts only."""
        self._done += 1
        for item in segments:
            self._pixels[item["label"]] = self._pixels.get(item["label"], 0) + item["area"]
        if self._wanted.as_json:
            click.echo(_json_line(path, segments, files))
        elif new:
            click.echo(_text_line(path, segments, files))

    def succeeded(self) -> bool:
        """Prints the summary, and says whether all went well."""
        if self._done > 1 and not self._wanted.as_json:
            click.echo(self._summary())
        if self._failed:
            click.echo(f"{self._failed} of {self._total} images failed", err=True)
        return not self._failed and not self._unexplained

    def _summary(self) -> str:
        total = max(sum(self._pixels.values()), 1)
        ranked = sorted(self._pixels.items(), key=lambda entry: (-entry[1], entry[0]))
        lines = [f"  {area / total:6.1%}  {name}" for name, area in ranked[:_SHOWN_CLASSES]]
        more = f"\n  and {len(ranked) - _SHOWN_CLASSES} more classes" if len(ranked) > _SHOWN_CLASSES else ""
        return "\n".join([f"{self._done} images, by share of all pixels decided:", *lines]) + more


def _told(path: Path, error: Exception) -> FreedaError:
    from freeda.segmentation.images import as_image_error

    return error if isinstance(error, FreedaError) else as_image_error(path, error)


def _text_line(path: Path, segments: Sequence[dict[str, Any]], files: Sequence[Path]) -> str:
    found = ", ".join(f"{item['label']} {item['share']:.0%}" for item in segments)
    return f"{path}: {found or 'nothing decided'}  ->  {', '.join(map(str, files))}"


def _json_line(path: Path, segments: Sequence[dict[str, Any]], files: Sequence[Path]) -> str:
    content = {"image": str(path), "segments": list(segments), "files": [str(item) for item in files]}
    return json.dumps(content, ensure_ascii=False)


def _chosen_points(points: Sequence[Point], result: Segmentation) -> list[tuple[int, int]]:
    named = [point for point in points if point is not None]
    return [*named, *result.inner_points().values()] if None in points else named
