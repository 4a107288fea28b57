"""Sample images of a shard with their masks, for the report: a typical one, the sharpest and the weakest."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from PIL import Image

__all__ = ["KINDS", "SAME_PIXELS", "Overlaps", "Sample", "SamplePicker", "draw_sample"]

KINDS = ("first", "sharpest", "weakest")
"""The first image with a mask, and those whose attention maps have the highest and the lowest peaks."""
SAME_PIXELS = 0.5
"""Masks whose intersection over union is higher cover the same pixels."""
_SIDE = 128
_DIMMED = 0.25


@dataclass(frozen=True)
class Sample:
    """A generated picture with the mask of each noun.

    strip: WebP: the image, then per noun the image with everything outside its mask dimmed.
    peak: mean over the nouns of their attention map's maximum over its mean.
    kind: one of `KINDS`.
    """

    caption: str
    nouns: tuple[str, ...]
    strip: bytes
    peak: float
    kind: str = KINDS[0]


@dataclass
class Overlaps:
    """How often two nouns of an image have masks that cover the same pixels.

    pairs: of masks of one image.
    same: pairs whose intersection over union is above `SAME_PIXELS`.
    """

    pairs: int = 0
    same: int = 0

    def add(self, masks: Mapping[str, np.ndarray]) -> None:
        """masks: of an image's nouns, (H, W) bool each."""
        for one, other in combinations(masks.values(), 2):
            self.pairs += 1
            self.same += bool((one & other).sum() > SAME_PIXELS * (one | other).sum())


class SamplePicker:
    """Draws an image only where it is the first, the sharpest or the weakest so far."""

    def __init__(self) -> None:
        self._held: dict[str, Sample] = {}

    def offer(
        self, caption: str, pixels: np.ndarray, masks: Mapping[str, np.ndarray], peaks: Mapping[str, float]
    ) -> None:
        """pixels: (H, W, 3) uint8 RGB; masks: (H, W) bool by noun, at least one; peaks: by noun."""
        peak = float(np.mean([peaks[noun] for noun in masks]))
        kinds = [kind for kind in KINDS if self._is_taken(kind, peak)]
        if kinds:
            sample = draw_sample(caption, pixels, masks, peak)
            self._held |= {kind: replace(sample, kind=kind) for kind in kinds}

    def samples(self) -> list[Sample]:
        """One of each kind; an image that is several is there once."""
        seen: dict[bytes, Sample] = {}
        for kind in KINDS:
            if kind in self._held:
                seen.setdefault(self._held[kind].strip, self._held[kind])
        return list(seen.values())

    def _is_taken(self, kind: str, peak: float) -> bool:
        held = self._held.get(kind)
        if held is None:
            return True
        return {"first": False, "sharpest": peak > held.peak, "weakest": peak < held.peak}[kind]


def draw_sample(caption: str, pixels: np.ndarray, masks: Mapping[str, np.ndarray], peak: float) -> Sample:
    """pixels: (H, W, 3) uint8 RGB; masks: (H, W) bool, one per noun."""
    dimmed = [np.where(mask[..., None], pixels, pixels * _DIMMED).astype(np.uint8) for mask in masks.values()]
    panels = [_small(panel) for panel in (pixels, *dimmed)]
    strip = Image.new("RGB", (sum(panel.width for panel in panels), panels[0].height))
    for number, panel in enumerate(panels):
        strip.paste(panel, (number * panel.width, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=80)
    return Sample(caption, tuple(masks), buffer.getvalue(), peak)


def _small(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture
