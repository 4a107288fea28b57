"""Stuff: ten textures without a shape of their own, each filling any height and width.

Every function takes `(rng, height, width, unit)` and returns (height, width, 3) float32 in [0, 255];
`unit` is the number of pixels that 1/128 of the scene's shorter side covers.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

Texture = np.ndarray


def _noise(rng: np.random.Generator, height: int, width: int, across: float, down: float) -> np.ndarray:
    """(height, width) smooth noise in [-1, 1]; `across` and `down` are its grain in pixels."""
    rows, columns = int(height / down) + 3, int(width / across) + 3
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    y = np.linspace(0, rows - 2, height, dtype=np.float32)[:, None].repeat(width, 1)
    x = np.linspace(0, columns - 2, width, dtype=np.float32)[None].repeat(height, 0)
    return ndimage.map_coordinates(coarse, [y, x], order=1, mode="nearest")


def _tint(color: tuple[int, int, int], *layers: np.ndarray) -> Texture:
    """A flat colour brightened and darkened by the sum of `layers`, in grey levels."""
    total = sum(layers, np.float32(0))
    return np.clip(np.array(color, np.float32) + np.asarray(total)[..., None], 0, 255)


def _grid(height: int, width: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y / unit, x / unit


def _vary(rng: np.random.Generator, color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(c + rng.integers(-9, 10)) for c in color)
    return red, green, blue


def grass(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    blades = _noise(rng, height, width, 1.6 * unit, 6 * unit) * 24
    patches = _noise(rng, height, width, 22 * unit, 14 * unit) * 10
    return _tint(_vary(rng, (84, 150, 58)), blades, patches)


def sand(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    bend = _noise(rng, height, width, 30 * unit, 20 * unit) * 5
    ripples = np.sin((y + bend) * 0.75 + rng.uniform(0, 6)) * 8
    return _tint(_vary(rng, (226, 198, 138)), ripples, _noise(rng, height, width, 1.5 * unit, 1.5 * unit) * 7)


def water(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    bend = _noise(rng, height, width, 16 * unit, 12 * unit) * 6
    waves = np.sin((y + bend) * 0.5 + x * 0.05 + rng.uniform(0, 6))
    return _tint(_vary(rng, (38, 104, 176)), waves * 13, np.maximum(waves - 0.75, 0) * 130)


def snow(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    drifts = _noise(rng, height, width, 34 * unit, 16 * unit) * 9
    base = _tint(_vary(rng, (232, 238, 246)), drifts)
    flakes = rng.random((height, width)) < 0.012 / max(unit, 1) ** 2
    soft = ndimage.uniform_filter(flakes.astype(np.float32), max(2, round(2.2 * unit)))
    return np.clip(base + np.minimum(soft * 60, 20)[..., None] * (1, 1, 0.6), 0, 255)


def brick(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    tall, wide = rng.uniform(9, 12), rng.uniform(19, 25)
    row = np.floor((y + rng.uniform(0, tall)) / tall)
    shifted = x + (row % 2) * wide / 2 + rng.uniform(0, wide)
    column = np.floor(shifted / wide)
    tone = np.sin(row * 12.9898 + column * 78.233) * 13
    mortar = ((shifted % wide) < 1.7) | _seam(row)
    wall = _tint(_vary(rng, (168, 82, 62)), tone, _noise(rng, height, width, 3 * unit, 3 * unit) * 7)
    return np.where(mortar[..., None], np.array((190, 150, 132), np.float32), wall)


def _seam(row: np.ndarray) -> np.ndarray:
    """Where one row of bricks ends and the next begins."""
    edge = np.zeros(row.shape, bool)
    edge[1:] = row[1:] != row[:-1]
    thick = max(1, int(np.median(np.diff(np.flatnonzero(edge[:, 0]))) // 9)) if edge.any() else 1
    return ndimage.binary_dilation(edge, np.ones((thick + 1, 1), bool))


def sky(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, _ = _grid(height, width, unit)
    clouds = _noise(rng, height, width, 26 * unit, 11 * unit) + 0.5 * _noise(
        rng, height, width, 11 * unit, 6 * unit
    )
    white = np.clip(clouds * 1.3 - 0.35, 0, 0.8)[..., None]
    blue = _tint(_vary(rng, (128, 188, 236)), y * 0.16 - 6)
    return blue * (1 - white) + np.array((248, 248, 250), np.float32) * white


def wood(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    plank = rng.uniform(17, 24)
    board = np.floor((y + rng.uniform(0, plank)) / plank)
    bend = _noise(rng, height, width, 40 * unit, 10 * unit) * 3
    grain = np.sin((y + bend) * 2.1 + np.sin(board * 5.3) * 9) * 9
    tone = np.sin(board * 43.7) * 12
    seam = np.where(np.diff(board, axis=0, prepend=board[:1]) != 0, -55, 0)
    return _tint(_vary(rng, (158, 112, 68)), grain, tone, seam.astype(np.float32))


def gravel(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    count = max(4, int(height * width / (unit * 7.5) ** 2))
    centres = rng.uniform(0, 1, (count, 2)) * (height / unit, width / unit)
    distance, owner = cKDTree(centres).query(np.stack([y, x], -1).reshape(-1, 2), k=2)
    gap = (distance[:, 1] - distance[:, 0]).reshape(height, width)
    tone = rng.uniform(-18, 18, count)[owner[:, 0]].reshape(height, width)
    stones = _tint(_vary(rng, (142, 140, 138)), tone.astype(np.float32), np.minimum(gap, 4) * 4 - 8)
    return np.where((gap < 0.9)[..., None], np.array((104, 102, 102), np.float32), stones)


def tiles(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    side = rng.uniform(13, 18)
    row, column = np.floor((y + rng.uniform(0, side)) / side), np.floor((x + 3) / side)
    checker = ((row + column) % 2)[..., None]
    light, dark = (np.array(_vary(rng, base), np.float32) for base in ((198, 218, 208), (152, 190, 182)))
    gloss = _noise(rng, height, width, 20 * unit, 20 * unit)[..., None] * 5
    return np.clip(light * checker + dark * (1 - checker) + gloss, 0, 255)


def carpet(rng: np.random.Generator, height: int, width: int, unit: float) -> Texture:
    y, x = _grid(height, width, unit)
    side, shift = rng.uniform(15, 20), rng.uniform(0, 9)
    diamond = np.abs(((x + shift) % side) - side / 2) + np.abs(((y + shift) % side) - side / 2)
    pile = _noise(rng, height, width, 1.5 * unit, 1.5 * unit) * 9
    base = _tint(_vary(rng, (124, 62, 122)), pile)
    figure = _tint(_vary(rng, (160, 100, 112)), pile)
    return np.where((np.abs(diamond - side * 0.33) < 1.9)[..., None], figure, base)
