"""All methods on the same scenes of the toy world, in one run.

Run from the checkout's root: `python benchmarks/leaderboard.py [--scenes 300] [--write]`. With `--write`, the
table goes into RESULTS.md and docs/leaderboard.md, and a sheet of the example images into docs/images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
from measuring import PeakMemory, machine
from own_images import own_images
from PIL import Image, ImageDraw
from results import write_section
from scenes import CPU, DATA, IS_UNSEEN, STUFF, Measured, measured, miou

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.toy import ToyDataset
from freeda.methods import load
from freeda.methods.base import Segmenter
from freeda.methods.freeda import with_images
from freeda.segmentation.drawing import draw_overlay, font
from freeda.segmentation.marked_images import MarkedImage
from freeda.toyworld.make_examples import EXAMPLES

_HEADER = """## Leaderboard

`python benchmarks/leaderboard.py --write`, on the toy world, percent. The vocabulary is all 50 kinds. The 12
unseen ones were never shown to ODISE and DiGSeg; all frozen models learnt from captions of all 50.
"""
_PAGE = Path(__file__).parents[1] / "docs" / "leaderboard.md"
_SHEET = Path(__file__).parents[1] / "docs" / "images" / "methods.png"
_NONE = "none (captions made the frozen models)"
_SEEN = "of 38 kinds"
_CELL = 192
_WATCHED = 20
"""Scenes during which memory is watched. They are drawn before: what drawing leaves is not a method's."""


@dataclass(frozen=True)
class Entry:
    """A method as it is compared.

    supervision: what it learnt from, in words. closed: whether it knows no other classes.
    own: images per class that it is given, drawn in the style of the scenes, with their masks.
    """

    title: str
    method: str
    supervision: str
    options: Mapping[str, Any] = field(default_factory=dict)
    closed: bool = False
    own: int = 0


ENTRIES = (
    Entry("FreeDA", "freeda", _NONE),
    Entry("FreeDA and 20 images per class", "freeda", "masks of 20 scenes per class; no training", own=20),
    Entry("DiffSegmenter", "diffsegmenter", _NONE),
    Entry("ODISE", "odise", f"masks and names {_SEEN}", {"stuff": STUFF}),
    Entry("DiGSeg", "digseg", f"masks and names {_SEEN}"),
    Entry("FlowSeg", "flowseg", "label maps of all 50 kinds", closed=True),
)


@dataclass(frozen=True)
class Result:
    """What was measured of an entry. ink: on scenes in a style that no model has seen."""

    entry: Entry
    found: Measured
    ink: Measured
    trained: int
    megabytes: float


def results(scenes: int, entries: tuple[Entry, ...]) -> Iterator[Result]:
    """Each method in a process of its own, so that none pays for another's memory."""
    for entry in entries:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            yield process.submit(_result, entry, scenes).result()


def _result(entry: Entry, scenes: int) -> Result:
    import freeda.models.diffusion  # noqa: F401 - libraries are not the method's memory

    images, own = [DATA.image(number) for number in range(_WATCHED)], _own(entry)
    with PeakMemory() as memory:
        segmenter = _loaded(entry, own)
        segmenter.segment(images, DATA.classes)
    found = measured(segmenter, scenes)
    ink = measured(_loaded(entry, _own(entry, ink=True)), scenes, data=ToyDataset(ink=True))
    return Result(entry, found, ink, _trained(segmenter), memory.megabytes)


def _own(entry: Entry, *, ink: bool = False) -> list[MarkedImage]:
    return list(own_images(entry.own, ink=ink)) if entry.own else []


def _loaded(entry: Entry, own: list[MarkedImage]) -> Segmenter:
    segmenter = load(method=entry.method, **entry.options)
    return with_images(segmenter, own) if own else segmenter


def _trained(segmenter: Segmenter) -> int:
    network = getattr(segmenter.method, "network", None)  # type: ignore[attr-defined]
    return 0 if network is None else sum(weight.numel() for weight in network.parameters())


def table(scenes: int, entries: tuple[Entry, ...]) -> Iterator[str]:
    yield f"{scenes} held-out scenes; {machine(CPU)}."
    yield ""
    yield (
        "| method | mIoU | seen | unseen | harmonic | against FreeDA (95 %) | PQ | mIoU in ink | s per image "
        "| MB | trained | supervision |"
    )
    yield "|" + "---|" * 12
    first: Measured | None = None
    for result in results(scenes, entries):
        yield _row(result, first)
        first = first or result.found


def _row(result: Result, first: Measured | None) -> str:
    found, entry = result.found, result.entry
    seen, unseen = found.miou(~IS_UNSEEN), found.miou(IS_UNSEEN)
    split = [f"{seen:.1f}", f"{unseen:.1f}", f"{2 * seen * unseen / max(seen + unseen, 1e-9):.1f}"]
    gain = ""
    if first is not None:
        gain = str(paired_bootstrap(found.counts, first.counts, lambda sums: 100 * miou(sums)))
    cells = [
        f"{entry.title} (closed vocabulary)" if entry.closed else entry.title,
        f"{found.miou():.1f}",
        *(["all seen", "", ""] if entry.closed else split),
        gain,
        f"{100 * found.quality.mean()[0]:.1f}",
        f"{result.ink.miou():.1f}",
        f"{found.seconds:.2f}",
        f"{result.megabytes:,.0f}",
        f"{result.trained / 1e6:.1f} M" if result.trained else "0",
        entry.supervision,
    ]
    return f"| {' | '.join(cells)} |"


def sheet(entries: tuple[Entry, ...]) -> Image.Image:
    """The six example images, a column per method."""
    entries = tuple(entry for entry in entries if not entry.own)
    images = sorted(EXAMPLES.glob("scene-*.png"))
    top = 24
    picture = Image.new("RGB", ((len(entries) + 1) * _CELL, top + len(images) * _CELL), "white")
    draw = ImageDraw.Draw(picture)
    columns = ["image", *(entry.title for entry in entries)]
    for number, title in enumerate(columns):
        draw.text(((number + 0.5) * _CELL, top / 2), title, "black", font(15), anchor="mm")
    for row, path in enumerate(images):
        _put(picture, Image.open(path).convert("RGB"), 0, top + row * _CELL)
    for column, entry in enumerate(entries, 1):
        segmenter = load(method=entry.method, **entry.options)
        segmenter.set_classes(DATA.classes)
        for row, path in enumerate(images):
            overlay = draw_overlay(segmenter.segment(path), legend=False)
            _put(picture, overlay, column * _CELL, top + row * _CELL)
    return picture


def _put(picture: Image.Image, part: Image.Image, left: int, top: int) -> None:
    picture.paste(part.resize((_CELL - 4, _CELL - 4), Image.Resampling.LANCZOS), (left + 2, top + 2))


def write_page(lines: list[str]) -> None:
    """Replaces the table in the docs."""
    begin, end = "<!-- table: begin -->", "<!-- table: end -->"
    held = _PAGE.read_text(encoding="utf-8")
    before, after = held.split(begin)[0], held.split(end)[1]
    body = "\n".join([begin, *lines, end])
    _PAGE.write_text(f"{before}{body}{after}", encoding="utf-8")


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--write", is_flag=True, help="Also write RESULTS.md, docs/leaderboard.md and the sheet.")
def main(scenes: int, write: bool) -> None:
    """Prints the table."""
    lines = []
    for line in table(scenes, ENTRIES):
        click.echo(line)
        lines.append(line)
    if write:
        write_section("leaderboard", [_HEADER, *lines])
        write_page(lines)
        sheet(ENTRIES).quantize(256).save(_SHEET, optimize=True)


if __name__ == "__main__":
    main()
