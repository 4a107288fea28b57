"""Segmenting many images: which ones, where results go, what is finished, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.errors import FreedaError

if TYPE_CHECKING:
    from freeda.segmentation.result import Segmentation

__all__ = ["Job", "Planned", "Point", "Wanted", "planned_images"]

Point = tuple[int, int] | None
"""Column and row of a pixel; None for one pixel per class found."""
_FINISHED = ".finished.jsonl"
"""In the folder of the results: a line per finished image, with what it was made of."""
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class Planned:
    """An image and its results' path, relative to the folder of all results and without an ending."""

    path: Path
    name: Path


@dataclass(frozen=True)
class Wanted:
    """What is saved and shown of every image."""

    formats: tuple[str, ...]
    points: tuple[Point, ...]
    as_json: bool = field(kw_only=True)
    instances: bool = field(kw_only=True)


def planned_images(images: Sequence[Path], out: Path, *, recursive: bool) -> list[Planned]:
    """Files as they are, folders by the images in them; names are numbered where two would be the same.

    Raises `ImageError` for a folder without images, and `click.BadParameter` for results beside images: they
    would replace some, and be segmented themselves the next time.
    """
    if any((path if path.is_dir() else path.parent).resolve() == out.resolve() for path in images):
        raise click.BadParameter(f"'{out}' holds the images; name another folder", param_hint="--out")
    found = [item for path in images for item in _in_path(path, out, recursive)]
    named: dict[Path, Planned] = {}
    for item in found:
        names = (item.name if n == 1 else item.name.with_name(f"{item.name.name}-{n}") for n in count(1))
        name = next(name for name in names if name not in named)
        named[name] = Planned(item.path, name)
    return list(named.values())


def _in_path(path: Path, out: Path, recursive: bool) -> list[Planned]:
    from freeda.errors import ImageError
    from freeda.segmentation.images import IMAGE_ENDINGS

    if not path.is_dir():
        return [Planned(path, Path(path.stem))]
    inside = path.rglob("*") if recursive else path.iterdir()
    pictures = sorted(item for item in inside if item.suffix.lower() in IMAGE_ENDINGS)
    # Results may lie in a folder inside of the one with the images.
    files = [item for item in pictures if not item.resolve().is_relative_to(out.resolve())]
    if not files:
        deeper = "" if recursive else " (--recursive looks into its folders)"
        raise ImageError(f"folder '{path}' holds no images{deeper}")
    return [Planned(item, item.relative_to(path).with_suffix("")) for item in files]


class Job:
    """Saves results as they come, and remembers what failed.

    made_by: what results depend on besides images and `wanted`, as plain data.
    """

    def __init__(self, planned: Sequence[Planned], out: Path, wanted: Wanted, made_by: Any) -> None:
        self._planned, self._out, self._wanted = list(planned), out, wanted
        self._made_by = made_by
        self._left = iter(self._planned)
        self._failed: set[object] = set()
        self._unexplained = 0
        self._pixels: dict[str, int] = {}
        self._saved = 0

    @property
    def images(self) -> list[Path]:
        """Those that are to be segmented, in order."""
        return [item.path for item in self._planned]

    def skip_finished(self) -> None:
        """Leaves out images whose results are there, made of the same by the same."""
        finished = dict(_read_finished(self._out / _FINISHED))
        left = [item for item in self._planned if not self._is_finished(finished.get(str(item.name)), item)]
        if len(left) < len(self._planned):
            skipped = len(self._planned) - len(left)
            click.echo(f"{skipped} of {len(self._planned)} images were finished already", err=True)
        self._planned, self._left = left, iter(left)

    def _is_finished(self, entry: dict[str, Any] | None, item: Planned) -> bool:
        return (
            entry is not None
            and entry.get("made_of") == self._made_of(item)
            and all((self._out / name).is_file() for name in entry.get("files", ()))
        )

    def _made_of(self, item: Planned) -> str:
        """A digest of all that an image's results depend on; the image itself by size and time of change."""
        wanted = [self._wanted.formats, self._wanted.points, self._wanted.instances]
        try:
            held = item.path.stat()
        except OSError:
            return ""
        image = [str(item.path.resolve()), held.st_size, held.st_mtime_ns]
        text = json.dumps([image, wanted, self._made_by], default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def note_failure(self, path: object, error: FreedaError) -> None:
        click.echo(f"error: {error}", err=True)
        self._failed.add(path)

    def save(self, result: Segmentation) -> None:
        item = next(item for item in self._left if item.path not in self._failed)
        folder, stem = self._out / item.name.parent, item.name.name
        try:
            written = result.save(folder, stem, self._wanted.formats, instances=self._wanted.instances)
        except Exception as error:  # one image costs no other
            self.note_failure(item.path, _told(item.path, error))
            return
        unexplained = self._unexplained
        for x, y in _chosen_points(self._wanted.points, result):
            try:
                written += result.explain(x, y).save(folder, stem)
            except Exception as error:
                click.echo(f"error: {item.path}: {_told(item.path, error)}", err=True)
                self._unexplained += 1
        click.echo((_result_json if self._wanted.as_json else _result_text)(item.path, result, written))
        self._count(result)
        if self._unexplained == unexplained:
            self._note_finished(item, written)

    def _note_finished(self, item: Planned, written: Sequence[Path]) -> None:
        files = [str(path.relative_to(self._out)) for path in written]
        entry = {"name": str(item.name), "made_of": self._made_of(item), "files": files}
        with (self._out / _FINISHED).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(entry))  # first, for the line before may be half written

    def _count(self, result: Segmentation) -> None:
        self._saved += 1
        for item in result.segments_info:
            self._pixels[item["label"]] = self._pixels.get(item["label"], 0) + item["area"]

    def succeeded(self) -> bool:
        if self._saved > 1 and not self._wanted.as_json:
            click.echo(self._summary())
        if self._failed:
            click.echo(f"{len(self._failed)} of {len(self._planned)} images failed", err=True)
        return not self._failed and not self._unexplained

    def _summary(self) -> str:
        total = sum(self._pixels.values())
        ranked = sorted(self._pixels.items(), key=lambda entry: (-entry[1], entry[0]))
        lines = [f"  {area / total:6.1%}  {name}" for name, area in ranked[:_SHOWN_CLASSES]]
        more = f"\n  and {len(ranked) - _SHOWN_CLASSES} classes more" if len(ranked) > _SHOWN_CLASSES else ""
        return "\n".join([f"{self._saved} images, by share of all pixels decided:", *lines]) + more


def _read_finished(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names with their entries; a line that a killed run left half written is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"], entry


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


def _chosen_points(points: Sequence[Point], result: Segmentation) -> list[tuple[int, int]]:
    named = [point for point in points if point is not None]
    return [*named, *result.inner_points().values()] if None in points else named
