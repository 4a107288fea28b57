"""Georeferenced rasters: read window by window, segmented tile by tile, written as a GeoTIFF of labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from freeda.errors import ConfigError, ImageError, OutputError, reason
from freeda.files import replacing
from freeda.media.raster_bands import RasterBands, window_of
from freeda.media.totals import Totals
from freeda.methods.base import Segmenter
from freeda.methods.tiling import Tile, tile_results, tiles
from freeda.segmentation.colors import class_colors
from freeda.segmentation.decision import ignore_index_for

__all__ = ["segment_raster"]

_BLOCK = 256
_TAGGED = 10_000
_CACHE_MEGABYTES = 128
"""GDAL would keep up to a twentieth of the machine's memory of what it read."""
OnTile = Callable[[int, int], None]


def segment_raster(
    segmenter: Segmenter,
    source: str | Path,
    target: str | Path,
    *,
    bands: Sequence[int] = (),
    on_tile: OnTile | None = None,
) -> dict[str, Any]:
    """Segments a raster of any size at its own resolution into the classes set, and writes `target`, a
    GeoTIFF of class numbers with the source's georeference and a colour table.

    bands: three that are red, green and blue, or one of grays, counted from 1; empty for the first three, or
        the first where there are fewer. A palette is expanded. Bands of other than 8 bits are stretched from
        their 2nd to their 98th percentile. A pixel without data in one of the bands stays undecided.
    on_tile: told how many tiles are done, and of how many.
    Returns what the target holds, as plain data: height, width, classes, ignore_index, undecided, paths and
    segments.
    Raises `ConfigError` where rasterio is not installed, `ImageError` for what cannot be read, `OutputError`.
    """
    with _opened(Path(source)) as dataset:
        read = RasterBands.of(dataset, bands, str(source))
        with replacing(Path(target)) as partial:
            summary = _segment(segmenter, read, partial, on_tile)
            _require_whole(partial, target, summary)
    return summary


def _segment(segmenter: Segmenter, read: RasterBands, target: Path, on_tile: OnTile | None) -> dict[str, Any]:
    height, width = read.dataset.shape
    chosen = list(tiles(height, width, segmenter.native_side))
    done, totals = 0, Totals()

    def advance() -> None:
        nonlocal done
        done += 1
        if on_tile is not None:
            on_tile(done, len(chosen))

    def holding_data() -> Iterator[Tile]:
        for tile in chosen:
            if read.known(tile.kept).any():
                yield tile
            else:
                advance()

    results = tile_results(segmenter.stream, holding_data(), lambda tile: read.pixels(tile.seen))
    classes, segmented = segmenter.classes, 0
    ignored = ignore_index_for(len(classes))
    with _created(target, read.dataset, classes, ignored) as labels:
        for tile, result in results:
            result.labels[tile.inner][~read.known(tile.kept)] = ignored
            labels.write(result.labels[tile.inner].astype(labels.dtypes[0]), 1, window=window_of(tile.kept))
            totals.add(result, tile.inner)
            segmented += 1
            advance()
    totals.undecided += height * width - totals.pixels
    totals.pixels = height * width
    return {
        "height": height,
        "width": width,
        "classes": list(classes),
        "ignore_index": ignored,
        "undecided": totals.undecided,
        "paths": {"tiles": segmented, "tiles without data": len(chosen) - segmented},
        "segments": totals.segments_info(classes),
    }


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A rasterio dataset to read."""
    try:
        import rasterio
    except ImportError as error:
        raise ConfigError("rasters need the package rasterio: pip install rasterio") from error
    if not path.is_file():
        raise ImageError(f"no raster file '{path}'")
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES):
        try:
            with _without_place():
                dataset = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"'{path}' is no readable raster: {reason(error)}") from error
        with dataset:
            yield dataset


@contextmanager
def _without_place() -> Iterator[None]:
    """A raster that lies nowhere on Earth is a picture like any other."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


@contextmanager
def _created(path: Path, source: Any, classes: tuple[str, ...], ignored: int) -> Iterator[Any]:
    """A new GeoTIFF of labels with the source's georeference; nothing is decided in it yet."""
    import rasterio

    try:
        with _without_place():
            dataset = rasterio.open(path, "w", **_profile(source, ignored))
        with dataset:
            if ignored <= 255:
                colors = class_colors(classes)
                dataset.write_colormap(1, {n: (*colors[n].tolist(), 255) for n in range(len(classes))})
            dataset.update_tags(1, **{f"class_{n}": name for n, name in enumerate(classes[:_TAGGED])})
            yield dataset
    except rasterio.errors.RasterioError as error:
        raise OutputError(f"cannot write '{path.parent}': {reason(error)}; choose another --out") from error


def _profile(source: Any, ignored: int) -> dict[str, Any]:
    height, width = source.shape
    gcps, gcps_crs = source.gcps
    place = {"gcps": gcps, "crs": gcps_crs} if gcps else {"crs": source.crs, "transform": source.transform}
    return {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8" if ignored <= 255 else "uint16",
        "nodata": ignored,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "BIGTIFF": "IF_SAFER",
        "rpcs": source.rpcs,
        **place,
    }


def _require_whole(path: Path, target: str | Path, summary: dict[str, Any]) -> None:
    """Reads the new file once: a disk that is full when GDAL closes a file raises nothing."""
    import rasterio

    counts = np.zeros(summary["ignore_index"] + 1, np.int64)
    try:
        with _without_place(), rasterio.open(path) as dataset:
            for _, window in dataset.block_windows(1):
                counts += np.bincount(dataset.read(1, window=window).ravel(), minlength=len(counts))
    except (rasterio.errors.RasterioError, ValueError) as error:
        raise OutputError(f"'{target}' cannot be read back: {reason(error)}; is the disk full?") from error
    told = {item["id"]: item["area"] for item in summary["segments"]}
    if any(counts[number] != told.get(number, 0) for number in range(len(summary["classes"]))):
        raise OutputError(f"'{target}' does not hold what was written; is the disk full?")
