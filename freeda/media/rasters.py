"""Georeferenced rasters: read window by window, segmented tile by tile, written as a GeoTIFF of labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freeda.errors import ConfigError, ImageError, reason
from freeda.files import replacing
from freeda.media.totals import Totals
from freeda.methods.base import Segmenter
from freeda.methods.tiling import Tile, tile_results, tiles
from freeda.segmentation.colors import class_colors
from freeda.segmentation.decision import ignore_index_for

__all__ = ["segment_raster"]

_BLOCK = 256
_SAMPLED_SIDE = 1024
_DARKEST, _BRIGHTEST = 2, 98
"""Percentiles of a band that become black and white, as geographic viewers show it."""
_TAGGED = 10_000
_CACHE_MEGABYTES = 128
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
    GeoTIFF of class numbers with the source's place on Earth and a colour table.

    bands: three that are red, green and blue, or one of grays, counted from 1; empty for the first three, or
        the first where there are fewer. Bands of other than 8 bits are stretched from their 2nd to their
        98th percentile.
    on_tile: told how many tiles are done, and of how many.
    Returns what the target holds, as plain data: height, width, classes, ignore_index, undecided (pixels
    without data among them), paths and segments.
    Raises `ConfigError` where rasterio is not installed, `ImageError` for what cannot be read.
    """
    with _opened(Path(source)) as dataset:
        reading = _Reading.of(dataset, bands, str(source))
        with replacing(Path(target)) as partial:
            return _segment(segmenter, reading, partial, on_tile)


@dataclass(frozen=True)
class _Reading:
    """A raster as 8-bit RGB.

    bands: three numbers.
    darkest, span: (3, 1, 1) values that become black, and how far above them is white.
    """

    dataset: Any
    bands: tuple[int, ...]
    darkest: np.ndarray
    span: np.ndarray

    @classmethod
    def of(cls, dataset: Any, bands: Sequence[int], name: str) -> _Reading:
        chosen = _chosen_bands(dataset.count, bands, name)
        if all(dataset.dtypes[band - 1] == "uint8" for band in chosen):
            return cls(dataset, chosen, np.zeros((3, 1, 1)), np.full((3, 1, 1), 255.0))
        scale = max(1.0, max(dataset.shape) / _SAMPLED_SIDE)
        shape = tuple(max(1, round(side / scale)) for side in dataset.shape)
        sample = dataset.read(chosen, out_shape=(3, *shape)).astype(np.float64)
        known = (dataset.dataset_mask(out_shape=shape) > 0) & np.isfinite(sample).all(0)
        if not known.any():
            raise ImageError(f"'{name}' holds no data in bands {', '.join(map(str, chosen))}")
        darkest, brightest = np.percentile(sample[:, known], (_DARKEST, _BRIGHTEST), axis=1)
        span = np.maximum(brightest - darkest, np.finfo(np.float32).tiny)
        return cls(dataset, chosen, darkest[:, None, None], span[:, None, None])

    def pixels(self, area: tuple[slice, slice]) -> np.ndarray:
        """(h, w, 3) uint8 of some rows and columns."""
        values = self.dataset.read(self.bands, window=_window(area)).astype(np.float64)
        scaled = np.nan_to_num((values - self.darkest) / self.span, nan=0.0, posinf=1.0, neginf=0.0)
        return np.ascontiguousarray((scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))

    def known(self, area: tuple[slice, slice]) -> np.ndarray:
        """(h, w) bool: where there is data."""
        return np.asarray(self.dataset.dataset_mask(window=_window(area)) > 0)


def _chosen_bands(count: int, bands: Sequence[int], name: str) -> tuple[int, ...]:
    chosen = tuple(bands) or ((1, 2, 3) if count >= 3 else (1,))
    if len(chosen) not in (1, 3):
        raise ConfigError(f"{len(chosen)} bands were named; expected three (red, green, blue), or one")
    if beyond := [band for band in chosen if not 1 <= band <= count]:
        raise ImageError(f"'{name}' has no band {beyond[0]}, only {count}; name others (--bands)")
    return chosen * 3 if len(chosen) == 1 else chosen


def _segment(segmenter: Segmenter, reading: _Reading, target: Path, on_tile: OnTile | None) -> dict[str, Any]:
    height, width = reading.dataset.shape
    chosen = list(tiles(height, width, segmenter.native_side))
    done, totals = 0, Totals()

    def holding_data() -> Iterator[Tile]:
        nonlocal done
        for tile in chosen:
            if reading.known(tile.kept).any():
                yield tile
            else:
                done += 1

    results = tile_results(segmenter.stream, holding_data(), lambda tile: reading.pixels(tile.seen))
    classes = segmenter.classes
    ignored = ignore_index_for(len(classes))
    with _created(target, reading.dataset, classes, ignored) as labels:
        segmented = 0
        for tile, result in results:
            known = reading.known(tile.kept)
            result.labels[tile.inner][~known] = ignored
            labels.write(result.labels[tile.inner].astype(labels.dtypes[0]), 1, window=_window(tile.kept))
            totals.add(result, tile.inner)
            segmented, done = segmented + 1, done + 1
            if on_tile is not None:
                on_tile(done, len(chosen))
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
    """A rasterio dataset; its errors become `ImageError`."""
    try:
        import rasterio
    except ImportError as error:
        raise ConfigError("rasters need the package rasterio: pip install 'freeda[geo]'") from error
    if not path.is_file():
        raise ImageError(f"no raster file '{path}'")
    try:
        # GDAL would keep up to a twentieth of the machine's memory of what it read.
        with rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", rasterio.errors.NotGeoreferencedWarning
            )  # a plain picture will do
            with rasterio.open(path) as dataset:
                yield dataset
    except rasterio.errors.RasterioError as error:
        raise ImageError(f"'{path}' is no readable raster: {reason(error)}") from error


@contextmanager
def _created(path: Path, source: Any, classes: tuple[str, ...], ignored: int) -> Iterator[Any]:
    """A new GeoTIFF of labels where the source lies; nothing is decided in it yet."""
    import rasterio

    height, width = source.shape
    places: dict[str, Any] = {"crs": source.crs, "transform": source.transform}
    gcps, gcps_crs = source.gcps
    if gcps:
        places = {"gcps": gcps, "crs": gcps_crs}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype="uint8" if ignored <= 255 else "uint16",
        nodata=ignored,
        compress="deflate",
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        BIGTIFF="IF_SAFER",
        **places,
    ) as dataset:
        if ignored <= 255:
            colors = class_colors(classes)
            dataset.write_colormap(1, {n: (*colors[n].tolist(), 255) for n in range(len(classes))})
        dataset.update_tags(1, **{f"class_{number}": name for number, name in enumerate(classes[:_TAGGED])})
        yield dataset


def _window(area: tuple[slice, slice]) -> Any:
    from rasterio.windows import Window

    rows, columns = area
    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
