"""What ODISE decides of an image: its queries' masks, with the probabilities of their classes.

Shapes: `Q` queries, `C` classes, `h w` the masks' grid, `H W` pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from freeda.segmentation.segments import Segment
from freeda.segmentation.upsampling import Band, Upsampling

__all__ = ["MaskScores"]

_BAND_BYTES = 128 * 2**20
_CLASSES_AT_ONCE = 256


@dataclass(frozen=True)
class MaskScores:
    """The scores of an image's pixels, and its segments.

    masks: (Q, h, w) logits, float32.
    classes: (Q, C) probability of each class; with that of "no object", each row sums to 1.
    nothing: (Q,) probability of "no object".
    stuff: numbers of the classes that have no instances.
    overlap: least share of a mask's pixels that must be its own for it to become a segment.
    most: instances per image.
    """

    masks: torch.Tensor
    classes: torch.Tensor
    nothing: torch.Tensor
    stuff: frozenset[int]
    overlap: float
    most: int

    def cpu(self) -> MaskScores:
        """The same in main memory: a result that is kept must not hold a GPU's."""
        return replace(self, masks=self.masks.cpu(), classes=self.classes.cpu(), nothing=self.nothing.cpu())

    def __len__(self) -> int:
        return self.classes.shape[1]

    def best(self, size: tuple[int, int], classes: slice) -> tuple[np.ndarray, np.ndarray]:
        """A pixel's score for a class: the sum over queries of probability times mask (Mask2Former)."""
        labels, scores = np.zeros(size, np.int32), np.full(size, -np.inf, np.float32)
        chosen = self.classes[:, classes]
        for band in self._bands(size, _CLASSES_AT_ONCE):
            inside = band.upsample(self.masks).sigmoid()
            for first in range(0, chosen.shape[1], _CLASSES_AT_ONCE):
                some = chosen[:, first : first + _CLASSES_AT_ONCE]
                values, winners = torch.einsum("qc,qhw->chw", some, inside).max(0)
                found, numbers = values.cpu().numpy(), winners.cpu().numpy() + first
                better = found > scores[band.rows]
                scores[band.rows] = np.where(better, found, scores[band.rows])
                labels[band.rows] = np.where(better, numbers, labels[band.rows])
        return labels, scores

    def dense(self) -> torch.Tensor:
        """(C, h, w) on the masks' grid."""
        return torch.einsum("qc,qhw->chw", self.classes, self.masks.sigmoid()).cpu()

    def things(self, classes: Sequence[str]) -> frozenset[int]:
        first = len(classes) - len(self)
        return frozenset(first + number for number in range(len(self)) if number not in self.stuff)

    def panoptic(self, size: tuple[int, int], classes: Sequence[str]) -> tuple[Segment, ...]:
        """Every pixel goes to the query with the largest product of probability and mask; a query that keeps
        too little of its mask is dropped, and stuff of one class is joined (Mask2Former).

        classes: the result's; a background before them is no segment.
        """
        probability, labels = self.classes.max(1)
        kept = torch.nonzero(probability > self.nothing)[:, 0]
        if not len(kept):
            return ()
        owners, insides = self._owners(size, kept, probability[kept])
        found: list[tuple[int, float, np.ndarray]] = []
        for place, query in enumerate(kept.tolist()):
            mask = (owners == place) & insides[place]
            area = int(mask.sum())
            if area and area >= self.overlap * int(insides[place].sum()):
                found.append((int(labels[query]), float(probability[query]), mask))
        return _numbered(self._joined(found), classes, len(self), self.stuff)

    def instances(self, size: tuple[int, int], classes: Sequence[str]) -> tuple[Segment, ...]:
        """The best pairs of query and class. A score is the class's probability times the mean of the mask
        where it is above one half (Mask2Former).
        """
        flat = self.classes.flatten().topk(min(self.most, self.classes.numel()))
        things = [n for n, place in enumerate(flat.indices.tolist()) if place % len(self) not in self.stuff]
        places = [int(flat.indices[number]) for number in things]
        queries = sorted({place // len(self) for place in places})
        masks = dict(zip(queries, self._whole(size, queries), strict=True))
        found = []
        for number, place in zip(things, places, strict=True):
            mask, sureness = masks[place // len(self)]
            if mask.any():
                found.append((place % len(self), float(flat.values[number]) * sureness, mask))
        found.sort(key=lambda item: -item[1])
        return _numbered(found, classes, len(self), self.stuff, largest_first=False)

    def _owners(
        self, size: tuple[int, int], kept: torch.Tensor, probability: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) which of the kept queries a pixel goes to; (K, H, W) bool, where each one's mask is."""
        owners, insides = np.empty(size, np.int32), np.empty((len(kept), *size), bool)
        for band in self._bands(size, 2 * len(kept)):
            logits = band.upsample(self.masks[kept])
            owners[band.rows] = (logits.sigmoid() * probability[:, None, None]).argmax(0).cpu().numpy()
            insides[:, band.rows] = (logits >= 0).cpu().numpy()
        return owners, insides

    def _whole(self, size: tuple[int, int], queries: list[int]) -> Iterator[tuple[np.ndarray, float]]:
        """Each query's (H, W) mask, and the mean of its sigmoid there."""
        for query in queries:
            mask, total = np.zeros(size, bool), 0.0
            for band in self._bands(size, 2):
                logits = band.upsample(self.masks[query : query + 1])[0]
                mask[band.rows] = (logits >= 0).cpu().numpy()
                total += float(logits.sigmoid()[logits >= 0].sum())
            yield mask, total / max(int(mask.sum()), 1)

    def _bands(self, size: tuple[int, int], planes: int) -> Iterator[Band]:
        """Rows of which so many planes of float32 fit in memory, with the queries' own."""
        upsampling = Upsampling.between((self.masks.shape[-2], self.masks.shape[-1]), size)
        return upsampling.bands(_BAND_BYTES // (4 * (planes + len(self.masks))))

    def _joined(self, found: list[tuple[int, float, np.ndarray]]) -> list[tuple[int, float, np.ndarray]]:
        """Segments of one kind of stuff as one, with the mean of their scores by area."""
        joined: dict[int, tuple[int, float, np.ndarray]] = {}
        things = []
        for label, score, mask in found:
            if label not in self.stuff:
                things.append((label, score, mask))
            elif label not in joined:
                joined[label] = (label, score, mask)
            else:
                _, held, whole = joined[label]
                areas = int(whole.sum()), int(mask.sum())
                joined[label] = (label, (held * areas[0] + score * areas[1]) / sum(areas), whole | mask)
        return [*things, *joined.values()]


def _numbered(
    found: Sequence[tuple[int, float, np.ndarray]],
    names: Sequence[str],
    count: int,
    stuff: frozenset[int],
    *,
    largest_first: bool = True,
) -> tuple[Segment, ...]:
    """As segments of a result that may have a background before its `count` classes."""
    first = len(names) - count
    ordered = sorted(found, key=lambda item: -int(item[2].sum())) if largest_first else found
    return tuple(
        Segment(number, label + first, names[label + first], round(score, 6), mask, label not in stuff)
        for number, (label, score, mask) in enumerate(ordered, 1)
    )
