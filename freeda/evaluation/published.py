"""What others measured of FreeDA, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PUBLISHED", "SUPERPIXELS", "Published"]

_RERUN = "the authors' code, run again by others, ViT-L/14"
_PAPER = "FreeDA with ViT-B/14, as surveys list it"


@dataclass(frozen=True)
class Published:
    """A figure. miou: in percent. vector_dim: width of the backbone's features. source: in words."""

    miou: float
    vector_dim: int
    source: str


def _figures(large: float, base: float | None = None) -> tuple[Published, ...]:
    rerun = Published(large, 1024, _RERUN)
    return (rerun,) if base is None else (rerun, Published(base, 768, _PAPER))


PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "voc20": _figures(86.2, 85.6),
    "context59": _figures(43.4, 43.1),
    "coco-stuff": _figures(28.8, 27.8),
    "cityscapes": _figures(35.9, 36.7),
    "ade20k": _figures(23.2, 22.4),
    "voc21": _figures(55.4),
    "context60": _figures(39.2),
    "coco-object": _figures(37.4),
}
"""By data set. All are mIoU over the whole validation set, with the paper's recipe."""

SUPERPIXELS: Mapping[str, Mapping[str, float]] = {
    "voc20": {"scale": 100.0, "sigma": 0.7, "min_size": 20},
    "voc21": {"scale": 100.0, "sigma": 0.7, "min_size": 20},
    "context59": {"scale": 100.0, "sigma": 1.0, "min_size": 20},
    "context60": {"scale": 100.0, "sigma": 1.0, "min_size": 20},
    "coco-stuff": {"scale": 100.0, "sigma": 1.0, "min_size": 100},
    "coco-object": {"scale": 100.0, "sigma": 1.0, "min_size": 100},
    "cityscapes": {"scale": 20.0, "sigma": 0.5, "min_size": 50},
    "ade20k": {"scale": 100.0, "sigma": 1.0, "min_size": 20},
}
"""The released code's superpixels, which it chose per data set; for `coco-object`, COCO-Stuff's."""
