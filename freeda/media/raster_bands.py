"""The bands of a raster as 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freeda.errors import ConfigError, ImageError, reason

__all__ = ["RasterBands", "window_of"]

_SAMPLED_SIDE = 1024
_DARKEST, _BRIGHTEST = 2, 98
"""Percentiles of a band that become black and white, as geographic viewers show it."""
_Area = tuple[slice, slice]


@dataclass(frozen=True)
class RasterBands:
    """A raster to read as RGB.

    dataset: of rasterio.
    bands: three numbers, counted from 1.
    darkest, span: (3, 1, 1) values that become black, and how far above them is white.
    palette: (256, 3) uint8 colours of a band of indices; None where there are none.
    name: for errors.
    """

    dataset: Any
    bands: tuple[int, ...]
    darkest: np.ndarray
    span: np.ndarray
    palette: np.ndarray | None
    name: str

    @classmethod
    def of(cls, dataset: Any, bands: Sequence[int], name: str) -> RasterBands:
        """Raises `ConfigError` for other than one or three bands, `ImageError` for bands that are not there,
        or of complex numbers.
        """
        chosen = _chosen_bands(dataset.count, bands, name)
        if any(dataset.dtypes[band - 1].startswith("complex") for band in chosen):
            raise ImageError(f"'{name}' holds complex numbers; give a raster of their magnitudes")
        palette = _palette(dataset, chosen)
        darkest, span = np.zeros((3, 1, 1)), np.full((3, 1, 1), 255.0)
        plain = cls(dataset, chosen, darkest, span, palette, name)
        if palette is not None:
            return plain
        if all(dataset.dtypes[band - 1] == "uint8" for band in chosen):
            whites = [2.0 ** _bits(dataset, band) - 1 for band in chosen]
            return cls(dataset, chosen, darkest, np.array(whites)[:, None, None], None, name)
        return cls(dataset, chosen, *plain._stretch(), None, name)

    def pixels(self, area: _Area) -> np.ndarray:
        """(h, w, 3) uint8 of some rows and columns."""
        values = self._read(window=window_of(area))
        if self.palette is not None:
            return self.palette[values[0]]
        scaled = np.nan_to_num((values - self.darkest) / self.span, nan=0.0, posinf=1.0, neginf=0.0)
        return np.ascontiguousarray((scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))

    def known(self, area: _Area) -> np.ndarray:
        """(h, w) bool: where every band holds data."""
        return self._known(self._read(window=window_of(area)), window=window_of(area))

    def _known(self, values: np.ndarray, **options: Any) -> np.ndarray:
        masks = self.dataset.read_masks(self.bands, **options)
        return np.asarray((masks > 0).all(0) & np.isfinite(values).all(0))

    def _read(self, **options: Any) -> np.ndarray:
        import rasterio

        try:
            return np.asarray(self.dataset.read(self.bands, **options))
        except rasterio.errors.RasterioError as error:
            raise ImageError(f"'{self.name}' is no readable raster: {reason(error)}") from error

    def _stretch(self) -> tuple[np.ndarray, np.ndarray]:
        """(3, 1, 1) darkest values and spans; of a raster without data it does not matter which."""
        scale = max(1.0, max(self.dataset.shape) / _SAMPLED_SIDE)
        shape = tuple(max(1, round(side / scale)) for side in self.dataset.shape)
        sample = self._read(out_shape=(3, *shape)).astype(np.float64)
        known = self._known(sample, out_shape=(3, *shape))
        if not known.any():
            return self.darkest, self.span
        darkest, brightest = np.percentile(sample[:, known], (_DARKEST, _BRIGHTEST), axis=1)
        span = np.maximum(brightest - darkest, np.finfo(np.float32).tiny)
        return darkest[:, None, None], span[:, None, None]


def _chosen_bands(count: int, bands: Sequence[int], name: str) -> tuple[int, ...]:
    chosen = tuple(bands) or ((1, 2, 3) if count >= 3 else (1,))
    if len(chosen) not in (1, 3):
        raise ConfigError(f"{len(chosen)} bands were named; expected three (red, green, blue), or one")
    if beyond := [band for band in chosen if not 1 <= band <= count]:
        raise ImageError(f"'{name}' has no band {beyond[0]}, only {count}; name others (--bands)")
    return chosen * 3 if len(chosen) == 1 else chosen


def _palette(dataset: Any, bands: tuple[int, ...]) -> np.ndarray | None:
    if len(set(bands)) > 1 or dataset.colorinterp[bands[0] - 1].name != "palette":
        return None
    colors = np.zeros((256, 3), np.uint8)
    for index, color in dataset.colormap(bands[0]).items():
        colors[index] = color[:3]
    return colors


def _bits(dataset: Any, band: int) -> int:
    """Bits that a band of bytes uses."""
    return int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8))


def window_of(area: tuple[slice, slice]) -> Any:
    """Rows and columns as rasterio's window."""
    from rasterio.windows import Window

    rows, columns = area
    return Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
