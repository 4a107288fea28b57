"""Large images at their own resolution: cut into tiles, each segmented as an image, and joined."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike

from freeda.class_names import Classes
from freeda.errors import FreedaError
from freeda.methods.base import Segmenter
from freeda.segmentation import MAX_PIXELS
from freeda.segmentation.decision import Foreground
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.images import ImageLike, OnError, as_image_error, read_image
from freeda.segmentation.result import Explainer, Scorer, Segmentation
from freeda.segmentation.windows import window_origins

__all__ = ["Tile", "TiledSegmenter", "tile_results", "tiles"]

_MARGIN = 8
"""Tiles overlap by twice the side divided by this, so that no label is decided at a tile's border."""
_Part = tuple["Tile", Segmentation]
_Segment = Callable[..., Iterable[Segmentation]]


@dataclass(frozen=True)
class Tile:
    """A tile of an image. seen: rows and columns that are segmented. kept: those whose labels are taken."""

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        """What is kept, counted from the tile's own corner."""
        rows, columns = (
            slice(kept.start - seen.start, kept.stop - seen.start)
            for seen, kept in zip(self.seen, self.kept, strict=True)
        )
        return rows, columns

    def holds(self, x: int, y: int) -> bool:
        """Whether it decides pixel (x, y) of the image."""
        rows, columns = self.kept
        return rows.start <= y < rows.stop and columns.start <= x < columns.stop


def tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """Tiles of `side` x `side` pixels over an image, row by row; an image that is smaller is one tile.

    What they keep covers the image once: two neighbours share the middle of what both see.
    """
    down, across = _spans(height, side), _spans(width, side)
    for rows, kept_rows in down:
        for columns, kept_columns in across:
            yield Tile((rows, columns), (kept_rows, kept_columns))


def _spans(length: int, side: int) -> list[tuple[slice, slice]]:
    stride = max(1, side - 2 * (side // _MARGIN))
    origins = window_origins(length, side, stride)
    seen = [slice(start, min(start + side, length)) for start in origins]
    bounds = [0, *((one.stop + other.start) // 2 for one, other in zip(seen, seen[1:], strict=False)), length]
    return [(span, slice(*bounds[place : place + 2])) for place, span in enumerate(seen)]


def tile_results(
    segment: Callable[[Iterator[np.ndarray]], Iterable[Segmentation]],
    chosen: Iterable[Tile],
    read: Callable[[Tile], np.ndarray],
) -> Iterator[_Part]:
    """Tiles with their results, in order.

    segment: of images, such as a segmenter's `stream`, which has a few of them in memory at a time.
    read: gives a tile's (h, w, 3) uint8 pixels.
    """
    asked: deque[Tile] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for tile in chosen:
            asked.append(tile)
            yield read(tile)

    for result in segment(pixels()):
        yield asked.popleft(), result


class TiledSegmenter:
    """Segments images at their own resolution, tile by tile, with any method.

    Every tile is as large as the images that the method does not resize; it may cut them into windows of its
    own. CLIP and the diffusion model see a window, not the whole image.

    segmenter: of a method that was loaded with `native`.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    @property
    def identity(self) -> Mapping[str, Any]:
        return {**self._segmenter.identity, "tiles": self.native_side}

    @property
    def native_side(self) -> int:
        return self._segmenter.native_side

    @property
    def classes(self) -> tuple[str, ...]:
        return self._segmenter.classes

    @property
    def explains(self) -> bool:
        return self._segmenter.explains

    def with_background(self, background: bool) -> TiledSegmenter:
        return TiledSegmenter(self._segmenter.with_background(background))

    def set_classes(self, classes: Classes) -> None:
        self._segmenter.set_classes(classes)

    @overload
    def segment(self, image: ImageLike, classes: Classes | None = None) -> Segmentation: ...
    @overload
    def segment(self, image: list[ImageLike], classes: Classes | None = None) -> list[Segmentation]: ...
    def segment(
        self, image: ImageLike | list[ImageLike], classes: Classes | None = None
    ) -> Segmentation | list[Segmentation]:
        images = image if isinstance(image, list) else [image]
        if classes is None:
            results = self.stream(images)
        else:
            results = self._results(partial(self._segment_tiles, classes), images, None, MAX_PIXELS)
        return list(results) if isinstance(image, list) else next(results)

    def _segment_tiles(
        self, classes: Classes, pixels: Iterator[np.ndarray], on_error: OnError | None
    ) -> list[Segmentation]:
        return self._segmenter.segment(list(pixels), classes)

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        on_error: OnError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        _ = self.classes  # raises at once where there are none
        return self._results(self._segmenter.stream, images, on_error, max_pixels)

    def _results(
        self, segment: _Segment, images: Iterable[ImageLike], on_error: OnError | None, max_pixels: int
    ) -> Iterator[Segmentation]:
        """Tiles of all images go through one stream, so that they pass the models together."""
        waiting: deque[_Image] = deque()
        asked: deque[_Asked] = deque()

        def pixels() -> Iterator[np.ndarray]:
            for image in images:
                try:
                    item = _Image.read(image, self.native_side, max_pixels)
                except Exception as error:
                    if on_error is None:
                        raise
                    on_error(image, as_image_error(image, error))
                    continue
                waiting.append(item)
                for tile in item.tiles:
                    asked.append(_Asked(item, tile, item.pixels[tile.seen]))
                    yield asked[-1].pixels

        def note(source: ImageLike, error: FreedaError) -> None:
            failed = next(one for one in asked if one.pixels is source)
            asked.remove(failed)
            failed.image.errors.append(error)

        for result in segment(pixels(), on_error=None if on_error is None else note):
            one = asked.popleft()
            one.image.parts.append((one.tile, result))
            yield from _finished(waiting, on_error)
        yield from _finished(waiting, on_error)


@dataclass
class _Image:
    """An image while its tiles are segmented.

    parts: tiles with their results. errors: of tiles that failed.
    """

    source: ImageLike
    pixels: np.ndarray
    tiles: list[Tile]
    parts: list[_Part] = field(default_factory=list)
    errors: list[FreedaError] = field(default_factory=list)

    @classmethod
    def read(cls, source: ImageLike, side: int, max_pixels: int) -> _Image:
        pixels = read_image(source, max_pixels=max_pixels)
        return cls(source, pixels, list(tiles(pixels.shape[0], pixels.shape[1], side)))

    @property
    def done(self) -> bool:
        return len(self.parts) + len(self.errors) == len(self.tiles)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A tile that waits for its result."""

    image: _Image
    tile: Tile
    pixels: np.ndarray


def _finished(waiting: deque[_Image], on_error: OnError | None) -> Iterator[Segmentation]:
    """The results of images whose tiles are all there, in order; an image of which a tile failed has none."""
    while waiting and waiting[0].done:
        item = waiting.popleft()
        if item.errors:
            assert on_error is not None
            on_error(item.source, item.errors[0])
        else:
            yield _joined(item)


def _joined(item: _Image) -> Segmentation:
    pixels, parts = item.pixels, item.parts
    first = parts[0][1]
    counts = Counter[str]()
    for _, result in parts:
        counts.update(result.paths)
    explainers = [(tile, result.explainer) for tile, result in parts]
    scorers = [(tile, result.scorer) for tile, result in parts]
    return Segmentation(
        image=pixels,
        labels=_pasted(pixels, parts, lambda result: result.labels),
        scores=_pasted(pixels, parts, lambda result: result.scores),
        classes=first.classes,
        ignore_index=first.ignore_index,
        paths={**counts, "tiles": len(parts)},
        explainer=None if first.explainer is None else partial(_explain, pixels, explainers),
        scorer=None if first.scorer is None else partial(_class_scores, pixels, scorers),
        foreground=_foreground(pixels, parts),
        file_name=Path(item.source).name if isinstance(item.source, str | Path) else "",
    )


def _pasted(
    pixels: np.ndarray, parts: Sequence[_Part], values: Callable[[Segmentation], np.ndarray]
) -> np.ndarray:
    """(H, W): (h, w) values of every tile, where it decides."""
    whole = np.empty(pixels.shape[:2], values(parts[0][1]).dtype)
    for tile, result in parts:
        whole[tile.kept] = values(result)[tile.inner]
    return whole


def _foreground(pixels: np.ndarray, parts: Sequence[_Part]) -> Foreground | None:
    first = parts[0][1].foreground
    if first is None:
        return None
    names = [name for name in ("labels", "scores", "rivals") if getattr(first, name) is not None]
    return Foreground(
        **{name: _pasted(pixels, parts, lambda result: getattr(result.foreground, name)) for name in names}  # noqa: B023
    )


def _explain(pixels: np.ndarray, parts: Sequence[tuple[Tile, Explainer | None]], x: int, y: int) -> Evidence:
    """The evidence of the tile that decides the pixel, in the whole image."""
    tile, explainer = next(part for part in parts if part[0].holds(x, y))
    assert explainer is not None
    rows, columns = tile.seen
    evidence = explainer(x - columns.start, y - rows.start)
    region = np.zeros(pixels.shape[:2], bool)
    region[tile.seen] = evidence.region
    return replace(evidence, image=pixels, x=x, y=y, region=region)


def _class_scores(
    pixels: np.ndarray,
    parts: Sequence[tuple[Tile, Scorer | None]],
    numbers: Sequence[int],
    dtype: DTypeLike = np.float32,
) -> np.ndarray:
    whole = np.empty((len(numbers), *pixels.shape[:2]), dtype)
    for tile, scorer in parts:
        assert scorer is not None
        whole[(slice(None), *tile.kept)] = scorer(numbers, dtype)[(slice(None), *tile.inner)]
    return whole
