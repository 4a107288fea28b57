"""Why a pixel has its class: its region, the best classes' scores, and the prototypes behind the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from freeda.segmentation.colors import GRAY

__all__ = ["Candidate", "Evidence", "Vote"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class that the pixel could have been.

    score: at the pixel.
    parts: what the score is made of, by name, such as "local" and "global".
    """

    name: str
    score: float
    parts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A prototype that speaks for the best class.

    row: in the index.
    text_similarity: cosine of its key and the class text.
    visual_similarity: cosine of its vector and the region's feature, as the method compares them.
    thumbnail: an encoded picture, empty where none was kept.
    """

    row: int
    id: str
    noun: str
    caption: str
    text_similarity: float
    visual_similarity: float
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The answer to "why this class here?".

    image: (H, W, 3) uint8 RGB.
    x, y: the pixel, column and row.
    region: (H, W) bool, what was scored together with the pixel.
    candidates: best first.
    weights: of the parts of a candidate's score, by name.
    votes: prototypes of the best class, most similar first; empty for a method without prototypes.
    refined: whether the scores were changed by the pixels around (PAMR) after the parts were added up.
    color: RGB, in which the result shows the class.
    """

    image: np.ndarray
    x: int
    y: int
    region: np.ndarray
    candidates: tuple[Candidate, ...]
    weights: Mapping[str, float]
    votes: tuple[Vote, ...] = field(default=())
    refined: bool = False
    color: tuple[int, int, int] = GRAY

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without pictures."""
        votes = [{**vars(vote)} for vote in self.votes]
        for vote in votes:
            del vote["thumbnail"]
        return {
            "x": self.x,
            "y": self.y,
            "region_pixels": int(self.region.sum()),
            "weights": dict(self.weights),
            "refined": self.refined,
            "candidates": [
                {"class": item.name, "score": item.score, **item.parts} for item in self.candidates
            ],
            "prototypes": votes,
        }

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Writes STEM.X-Y.evidence.png and .json into `folder`; returns the paths. Raises `OutputError`."""
        from freeda.segmentation.exports import save_evidence

        return save_evidence(self, Path(folder), stem)
