"""What a raster or a video holds in all."""

from __future__ import annotations

from typing import Any

import numpy as np

from freeda.segmentation.result import Segmentation

__all__ = ["Totals"]


class Totals:
    """Areas and mean scores per class, added up piece by piece."""

    def __init__(self) -> None:
        self._areas: dict[str, int] = {}
        self._scores: dict[str, float] = {}
        self.pixels = 0
        """All pixels counted, undecided ones among them."""
        self.undecided = 0

    def add(self, result: Segmentation, area: tuple[slice, slice] | None = None) -> None:
        """Counts a result, or an area of it."""
        chosen = area or (slice(None), slice(None))
        labels, scores = result.labels[chosen].ravel(), result.scores[chosen].ravel()
        counts = np.bincount(labels, minlength=result.ignore_index + 1)
        sums = np.bincount(labels, scores, result.ignore_index + 1)
        self.pixels += labels.size
        self.undecided += int(counts[result.ignore_index])
        for number in np.flatnonzero(counts[: len(result.classes)]):
            name = result.classes[number]
            self._areas[name] = self._areas.get(name, 0) + int(counts[number])
            self._scores[name] = self._scores.get(name, 0.0) + float(sums[number])

    def segments_info(self, classes: tuple[str, ...]) -> list[dict[str, Any]]:
        """As `Segmentation.segments_info`, of everything that was counted."""
        return [
            {
                "id": classes.index(name),
                "label": name,
                "area": area,
                "share": round(area / self.pixels, 6),
                "score": round(self._scores[name] / area, 6),
            }
            for name, area in sorted(self._areas.items(), key=lambda item: (-item[1], item[0]))
        ]
