"""The toy world as a data set: drawn scenes with exact labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from freeda.class_names import ClassName
from freeda.segmentation.annotations import OTHER, AnnotatedImage
from freeda.segmentation.images import ImageLike

if TYPE_CHECKING:
    from freeda.toyworld.scenes import Scene

__all__ = ["ToyDataset"]


@dataclass(frozen=True)
class ToyDataset:
    """Drawn evaluation scenes of the toy world.

    Every kind of thing and stuff is a class; with a background, every kind of thing, and stuff is it.
    ink: whether the scenes are drawn in a style that no model has seen (`freeda.toyworld.styles`).
    """

    count: int = 300
    side: int = 128
    background: bool = False
    split: str = "evaluation"
    ink: bool = False

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:
        from freeda.toyworld.vocabulary import KINDS, THINGS

        kinds = KINDS[: len(THINGS)] if self.background else KINDS
        return tuple(ClassName(kind.name, kind.synonyms) for kind in kinds)

    @property
    def identity(self) -> Mapping[str, str | int]:
        name = "toyworld-things" if self.background else "toyworld-ink" if self.ink else "toyworld"
        return {"dataset": name, "images": self.count, "side": self.side}

    def __len__(self) -> int:
        return self.count

    def name(self, number: int) -> str:
        return f"{number:05d}"

    def image(self, number: int) -> ImageLike:
        return self._scene(number).image

    def truth(self, number: int) -> np.ndarray:
        labels = self._scene(number).labels.astype(np.int64)
        if self.background:
            labels = np.where(labels < len(self.classes), labels + 1, 0)
        return labels

    @property
    def things(self) -> frozenset[int]:
        from freeda.toyworld.vocabulary import THINGS

        return frozenset(range(len(THINGS)))

    def annotated(self, number: int) -> AnnotatedImage:
        """With stuff as the background, where there is one."""
        from freeda.toyworld.split import annotated_scene
        from freeda.toyworld.vocabulary import KINDS

        numbers = {kind.name: label for label, kind in enumerate(KINDS)}
        item = annotated_scene(self._scene(number), numbers)
        kept = [n for n, label in enumerate(item.labels) if label < len(self.classes)]
        table = np.full(len(item.labels), OTHER, np.int32)
        table[kept] = np.arange(len(kept))
        return AnnotatedImage(item.image, table[item.segments], tuple(item.labels[n] for n in kept))

    def submitted(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def _scene(self, number: int) -> Scene:
        from freeda.toyworld.scenes import draw_scene, scene_rng
        from freeda.toyworld.styles import inked

        scene = draw_scene(scene_rng(self.split, number), self.side)
        return inked(scene) if self.ink else scene
