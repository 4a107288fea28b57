"""Segments: parts of an image that are one thing or one kind of stuff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["PackedMask", "Segment", "SegmentSource"]


@dataclass(frozen=True)
class PackedMask:
    """An (H, W) mask at one bit per pixel: an image may have a hundred."""

    size: tuple[int, int]
    bits: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        return cls((mask.shape[0], mask.shape[1]), np.packbits(mask))

    def unpacked(self) -> np.ndarray:
        """(H, W) bool."""
        height, width = self.size
        return np.unpackbits(self.bits, count=height * width).reshape(self.size).view(bool)


@dataclass(frozen=True)
class Segment:
    """A part of an image.

    id: counts the segments of an image from 1.
    label: its class, an index into the result's `classes`. name: of that class.
    score: how sure the method is; methods scale it differently.
    packed_mask: of its pixels; `mask` unpacks it.
    is_thing: whether the class has instances, of which this is one.
    """

    id: int
    label: int
    name: str
    score: float
    packed_mask: PackedMask
    is_thing: bool

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, made anew at every call."""
        return self.packed_mask.unpacked()


class SegmentSource(Protocol):
    """What a method that finds segments by itself keeps of an image. It holds no model."""

    def things(self, classes: Sequence[str]) -> frozenset[int]:
        """Which of a result's classes have instances, found or not."""

    def panoptic(self, size: tuple[int, int], classes: Sequence[str]) -> tuple[Segment, ...]:
        """Segments of an image of `size` (H, W) that do not overlap, largest first."""

    def instances(self, size: tuple[int, int], classes: Sequence[str]) -> tuple[Segment, ...]:
        """Instances of things, which may overlap, best first."""
