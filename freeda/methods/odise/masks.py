"""What ODISE decides of an image: its queries' masks, with the probabilities of their classes.

Shapes: `Q` queries, `C` classes, `h w` the masks' grid, `H W` pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from freeda.segmentation.segments import PackedMask, Segment
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
        owners, own, areas = self._owners(size, kept, probability[kept])
        found = [
            _Part(int(labels[query]), float(probability[query]), int(own[place]), (place,))
            for place, query in enumerate(kept.tolist())
            if own[place] and own[place] >= self.overlap * areas[place]
        ]
        parts = sorted(self._joined(found), key=lambda part: -part.area)
        return self._segments([(part.label, part.score, part.mask(owners)) for part in parts], classes)

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
            if sureness:
                found.append((place % len(self), float(flat.values[number]) * sureness, mask))
        return self._segments(sorted(found, key=lambda item: -item[1]), classes)

    def _owners(
        self, size: tuple[int, int], kept: torch.Tensor, probability: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W) int32: the place among `kept` of the query that a pixel goes to, -1 where it lies outside of
        that query's mask; (K,) pixels that go to each query; and (K,) pixels inside of its mask.
        """
        owners = np.full(size, -1, np.int32)
        own, areas = (np.zeros(len(kept), np.int64) for _ in range(2))
        for band in self._bands(size, 2 * len(kept)) if len(kept) else ():
            logits = band.upsample(self.masks[kept])
            winners = (logits.sigmoid() * probability[:, None, None]).argmax(0, keepdim=True)
            winners = torch.where(logits.gather(0, winners) >= 0, winners, -1)[0]
            owners[band.rows] = winners.cpu().numpy()
            own += winners.flatten().add(1).bincount(minlength=len(kept) + 1)[1:].cpu().numpy()
            areas += (logits >= 0).sum((1, 2)).cpu().numpy()
        return owners, own, areas

    def _whole(self, size: tuple[int, int], queries: list[int]) -> Iterator[tuple[PackedMask, float]]:
        """Each query's mask, and the mean of its sigmoid there; 0 where it is empty."""
        for query in queries:
            mask, total = np.zeros(size, bool), 0.0
            for band in self._bands(size, 2):
                logits = band.upsample(self.masks[query : query + 1])[0]
                mask[band.rows] = (logits >= 0).cpu().numpy()
                total += float(logits.sigmoid()[logits >= 0].sum())
            yield PackedMask.of(mask), total / max(int(mask.sum()), 1)

    def _bands(self, size: tuple[int, int], planes: int) -> Iterator[Band]:
        """Rows of which so many planes of float32 fit in memory, with the queries' own."""
        upsampling = Upsampling.between((self.masks.shape[-2], self.masks.shape[-1]), size)
        return upsampling.bands(_BAND_BYTES // (4 * (planes + len(self.masks))))

    def _joined(self, found: Sequence[_Part]) -> Iterator[_Part]:
        """Parts of one kind of stuff as one, with the mean of their scores by area."""
        yield from (part for part in found if part.label not in self.stuff)
        for label in sorted({part.label for part in found} & self.stuff):
            parts = [part for part in found if part.label == label]
            area = sum(part.area for part in parts)
            score = sum(part.score * part.area for part in parts) / area
            yield _Part(label, score, area, tuple(place for part in parts for place in part.places))

    def _segments(
        self, found: Sequence[tuple[int, float, PackedMask]], names: Sequence[str]
    ) -> tuple[Segment, ...]:
        """Labels, scores and masks as segments of a result that may have a background before its classes."""
        first = len(names) - len(self)
        return tuple(
            Segment(
                number, label + first, names[label + first], round(score, 6), mask, label not in self.stuff
            )
            for number, (label, score, mask) in enumerate(found, 1)
        )


@dataclass(frozen=True)
class _Part:
    """Pixels of one label. places: of the queries that they belong to."""

    label: int
    score: float
    area: int
    places: tuple[int, ...]

    def mask(self, owners: np.ndarray) -> PackedMask:
        """owners: (H, W), the place that each pixel belongs to, -1 for none."""
        mask = np.zeros(owners.shape, bool)
        for place in self.places:
            mask |= owners == place
        return PackedMask.of(mask)
