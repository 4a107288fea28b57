"""The result of segmenting one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import DTypeLike

from freeda.errors import ConfigError, ExplanationError
from freeda.segmentation.colors import class_colors
from freeda.segmentation.decision import Foreground
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.segments import PackedMask, Segment, SegmentSource

if TYPE_CHECKING:
    import supervision

__all__ = ["Explainer", "Scorer", "Segmentation"]

Explainer = Callable[[int, int], Evidence]
"""Evidence of a pixel: column, row."""
Scorer = Callable[..., np.ndarray]
"""(K, H, W) scores of K classes by their numbers, and the type of the scores."""


@dataclass(frozen=True)
class Segmentation:
    """A segmented image.

    image: (H, W, 3) uint8 RGB.
    labels: (H, W) int32, index into `classes`; `ignore_index` where nothing was decided.
    scores: (H, W) float32, the score of the chosen class.
    classes: names, the background first where there is one.
    paths: how many regions, or classes, were handled in which way.
    explainer: what `explain` calls; None where the method cannot explain.
    scorer: what `score_maps` calls; None where the result has no such scores.
    file_name: of the image, without its folder; empty where it came from no file.
    segment_source: what `segments` and `instances` are made of; None where they follow from the labels.
    foreground: what was known before the background was decided; None where there is no background.
    palette: (C, 3) uint8 RGB, in which the classes are drawn; None chooses colours by their names.
    """

    image: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]
    ignore_index: int = 255
    paths: Mapping[str, int] = field(default_factory=dict)
    explainer: Explainer | None = None
    scorer: Scorer | None = None
    segment_source: SegmentSource | None = None
    foreground: Foreground | None = None
    file_name: str = ""
    palette: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A pickled result has no explainer and no scorer, which would hold the models."""
        return {**self.__dict__, "explainer": None, "scorer": None}

    def __post_init__(self) -> None:
        shapes = {self.image.shape[:2], self.labels.shape, self.scores.shape}
        if len(shapes) != 1:
            raise ValueError(f"image, labels and scores differ in size: {sorted(shapes)}")

    @property
    def segments_info(self) -> list[dict[str, Any]]:
        """Per class found, largest first: id, label, area in pixels, share of the image, mean score."""
        counts = np.bincount(self.labels.ravel(), minlength=self.ignore_index + 1)
        totals = np.bincount(self.labels.ravel(), self.scores.ravel(), self.ignore_index + 1)
        present = [c for c in np.argsort(-counts[: len(self.classes)], kind="stable") if counts[c]]
        return [
            {
                "id": int(c),
                "label": self.classes[c],
                "area": int(counts[c]),
                "share": round(float(counts[c] / self.labels.size), 6),
                "score": round(float(totals[c] / counts[c]), 6),
            }
            for c in present
        ]

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The parts of the image, largest first, none of which overlap: things one by one, stuff per class
        (a panoptic segmentation). A method that does not tell things apart gives one segment per class found.
        """
        if self.segment_source is None:
            return tuple(_as_segment(number, item, self) for number, item in enumerate(self.segments_info, 1))
        return self.segment_source.panoptic((self.labels.shape[0], self.labels.shape[1]), self.classes)

    @property
    def segment_map(self) -> np.ndarray:
        """(H, W) int32: the ids of `segments`, 0 where there is none."""
        found = np.zeros(self.labels.shape, np.int32)
        for item in self.segments:
            found[item.mask] = item.id
        return found

    @property
    def instances(self) -> tuple[Segment, ...]:
        """Things one by one, best first; they may overlap. A method that does not tell things apart gives
        none.
        """
        if self.segment_source is None:
            return ()
        return self.segment_source.instances((self.labels.shape[0], self.labels.shape[1]), self.classes)

    @property
    def colors(self) -> np.ndarray:
        """(C, 3) uint8 RGB: the colours in which the classes are drawn."""
        if self.palette is not None:
            return self.palette
        return class_colors(self.classes, [item["id"] for item in self.segments_info])

    def explain(self, x: int, y: int) -> Evidence:
        """Why pixel (x, y), column and row, has its class.

        Raises `ExplanationError` outside the image, or for a method that cannot explain its results.
        """
        height, width = self.labels.shape
        if self.explainer is None:
            raise ExplanationError("this result cannot be explained: its method keeps no evidence")
        if not (0 <= x < width and 0 <= y < height):
            raise ExplanationError(f"pixel ({x}, {y}) lies outside the image of {width} x {height} pixels")
        evidence, label = self.explainer(x, y), int(self.labels[y, x])
        if label == self.ignore_index:
            return evidence
        return replace(evidence, color=tuple(self.colors[label].tolist()))

    def score_maps(self, names: Sequence[str], dtype: DTypeLike = np.float32) -> np.ndarray:
        """(K, H, W): the score of each of K classes at every pixel.

        The background's is the score that a class had to exceed. Minus infinity stands for a class that could
        not win. The image is scored again: without running a model where its features are among the latest,
        which are kept.
        dtype: of the scores; float16 takes half of the memory.
        Raises `ConfigError` for a class that was not asked for, or a result without scores.
        """
        if self.scorer is None:
            raise ConfigError("this result has no scores per class: it was put together, or pickled")
        self._require_classes(names)
        return self.scorer([self.classes.index(name) for name in names], dtype)

    def inner_points(self) -> dict[str, tuple[int, int]]:
        """For every class found, the (x, y) deepest inside its largest piece, largest class first."""
        points = {}
        for item in self.segments_info:
            mask = np.pad((self.labels == item["id"]).astype(np.uint8), 1)
            depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            points[item["label"]] = (int(x), int(y))
        return points

    def _require_classes(self, names: Sequence[str]) -> None:
        if unknown := [name for name in names if name not in self.classes]:
            raise ConfigError(f"no class '{unknown[0]}' in this result; it has {', '.join(self.classes)}")

    def mask(self, name: str) -> np.ndarray:
        """(H, W) bool: where class `name` was found; raises `ConfigError` for one that was not asked for."""
        self._require_classes([name])
        return np.asarray(self.labels == self.classes.index(name))

    def to_supervision(self, *, instances: bool = False) -> supervision.Detections:
        """As `sv.Detections`, with class names in its `data`; `instances` takes connected pieces apart.

        Raises `ConfigError` where supervision is not installed.
        """
        from freeda.segmentation.converting import to_supervision

        return to_supervision(self, instances=instances)

    def to_transformers(self) -> dict[str, Any]:
        """As transformers' panoptic post-processing: a tensor of segments' ids, and `segments_info`."""
        from freeda.segmentation.converting import to_transformers

        return to_transformers(self)

    def to_pipeline(self) -> list[dict[str, Any]]:
        """As transformers' "image-segmentation" pipeline: a label, a score and a mask per class found."""
        from freeda.segmentation.converting import to_pipeline

        return to_pipeline(self)

    def save(
        self,
        folder: str | Path,
        stem: str = "segmentation",
        formats: Sequence[str] = ("labels", "overlay"),
        *,
        instances: bool = False,
    ) -> list[Path]:
        """Writes STEM.json and the files of each format; returns their paths.

        formats: any of "labels" (STEM.labels.png), "overlay" (STEM.overlay.png), "npz" (STEM.npz), "scores"
            (STEM.scores.npz), "coco" (STEM.coco.json), "panoptic" (STEM.panoptic.png and .json) and
            "labelstudio" (STEM.labelstudio.json).
        instances: whether every connected piece of a class is a segment of its own in the last three.
        Raises `ConfigError`, `OutputError`.
        """
        from freeda.segmentation.exports import save_result

        return save_result(self, Path(folder), stem, formats, instances=instances)


def _as_segment(number: int, item: Mapping[str, Any], result: Segmentation) -> Segment:
    """An entry of `segments_info` with its mask."""
    mask = PackedMask.of(result.labels == item["id"])
    return Segment(number, item["id"], item["label"], item["score"], mask, is_thing=False)
