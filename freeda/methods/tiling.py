"""Large images at their own resolution: cut into tiles, each segmented as an image, and put together."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from freeda.class_names import Classes
from freeda.methods.base import Segmenter
from freeda.segmentation import MAX_PIXELS
from freeda.segmentation.decision import Foreground
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.images import ImageLike, OnError, as_image_error, read_image
from freeda.segmentation.result import Segmentation
from freeda.segmentation.windows import window_origins

__all__ = ["Tile", "TiledSegmenter", "tile_results", "tiles"]

_MARGIN = 8
"""Tiles overlap by twice the side divided by this, so that no label is decided at a tile's border."""
_Part = tuple["Tile", Segmentation]


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
    if len(origins) > 1 and origins[-1] == origins[-2]:
        del origins[-1]
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
    """Segments images tile by tile, each pixel at its own resolution, with any method.

    Every tile is as large as the images that the method does not resize. CLIP and the diffusion model see
    the tile, not the whole image.
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
        if isinstance(image, list):
            return [self._segment(one, classes) for one in image]
        return self._segment(image, classes)

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        on_error: OnError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        for image in images:
            try:
                result = self._segment(image, max_pixels=max_pixels)
            except Exception as error:
                if on_error is None:
                    raise
                on_error(image, as_image_error(image, error))
                continue
            yield result

    def _segment(
        self, image: ImageLike, classes: Classes | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> Segmentation:
        pixels = read_image(image, max_pixels=max_pixels)
        chosen = tiles(pixels.shape[0], pixels.shape[1], self.native_side)

        def segment(images: Iterator[np.ndarray]) -> Iterable[Segmentation]:
            if classes is None:
                return self._segmenter.stream(images)
            return self._segmenter.segment(list(images), classes)

        parts = list(tile_results(segment, chosen, lambda tile: pixels[tile.seen]))
        name = Path(image).name if isinstance(image, str | Path) else ""
        return replace(_joined(pixels, parts), file_name=name)


def _joined(pixels: np.ndarray, parts: Sequence[_Part]) -> Segmentation:
    first = parts[0][1]
    counts = Counter[str]()
    for _, result in parts:
        counts.update(result.paths)
    light = [(tile, replace(result, foreground=None)) for tile, result in parts]
    return Segmentation(
        image=pixels,
        labels=_pasted(pixels, parts, lambda result: result.labels),
        scores=_pasted(pixels, parts, lambda result: result.scores),
        classes=first.classes,
        ignore_index=first.ignore_index,
        paths={**counts, "tiles": len(parts)},
        explainer=None if first.explainer is None else partial(_explain, pixels, light),
        scorer=None if first.scorer is None else partial(_class_scores, pixels, light),
        foreground=_foreground(pixels, parts),
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


def _explain(pixels: np.ndarray, parts: Sequence[_Part], x: int, y: int) -> Evidence:
    """The evidence of the tile that decides the pixel, in the whole image."""
    tile, result = next(part for part in parts if part[0].holds(x, y))
    rows, columns = tile.seen
    evidence = result.explain(x - columns.start, y - rows.start)
    region = np.zeros(pixels.shape[:2], bool)
    region[tile.seen] = evidence.region
    return replace(evidence, image=pixels, x=x, y=y, region=region)


def _class_scores(pixels: np.ndarray, parts: Sequence[_Part], numbers: Sequence[int]) -> np.ndarray:
    names = [parts[0][1].classes[number] for number in numbers]
    whole = np.empty((len(numbers), *pixels.shape[:2]), np.float32)
    for tile, result in parts:
        whole[(slice(None), *tile.kept)] = result.score_maps(names)[(slice(None), *tile.inner)]
    return whole
