"""The toy world for methods that are trained: kinds that they never see, and scenes to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.segmentation.annotations import AnnotatedImage
from freeda.toyworld.captions import describe
from freeda.toyworld.scenes import Scene, draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS, THINGS

__all__ = ["UNSEEN", "TrainingScenes", "annotated_scene"]

UNSEEN = frozenset(
    {
        *("fish", "owl", "elephant", "banana", "donut", "train", "rocket", "cup", "cactus", "chair"),
        *("snow", "carpet"),
    }
)
"""Ten of 40 kinds of things and two of 10 kinds of stuff. (The frozen models' captions named them.)"""
_FIRST = 24_000
"""The scenes before were the frozen models' own."""
_NEXT_TRY = 1_000_000
_TRIES = 1_000
"""Scenes that are drawn to see whether enough of them show what was asked for."""


@dataclass(frozen=True)
class TrainingScenes:
    """Drawn scenes without kinds that are `unseen`, drawn afresh each time one is asked for."""

    count: int = 24_000
    side: int = 128
    unseen: frozenset[str] = UNSEEN

    @classmethod
    def showing(cls, names: frozenset[str] | None) -> TrainingScenes:
        """Scenes of these kinds only, or of all but `UNSEEN`. Raises `ConfigError` for an unknown kind, or
        where no scene can be drawn.
        """
        if names is None:
            return cls()
        kinds = {kind.name for kind in KINDS}
        if unknown := sorted(names - kinds):
            raise ConfigError(f"no kind '{unknown[0]}' in the toy world; it has {', '.join(sorted(kinds))}")
        if not (names & {*THINGS} and names - {*THINGS}):
            raise ConfigError("scenes need a kind of thing and a kind of stuff; name at least one of each")
        drawn = (draw_scene(scene_rng("train", _FIRST + number), 32) for number in range(_TRIES))
        if not any({kind.name for kind in scene.kinds} <= names for scene in drawn):
            raise ConfigError(
                f"none of {_TRIES:,} scenes shows only the {len(names)} kinds that are seen; name more"
            )
        return cls(unseen=frozenset(kinds - names))

    @cached_property
    def classes(self) -> tuple[ClassName, ...]:
        return tuple(ClassName(kind.name, kind.synonyms) for kind in KINDS if kind.name not in self.unseen)

    @cached_property
    def things(self) -> frozenset[int]:
        return frozenset(number for number, item in enumerate(self.classes) if item.name in THINGS)

    @property
    def identity(self) -> Mapping[str, str | int]:
        seen = ", ".join(item.name for item in self.classes)
        return {"data": "toyworld", "images": self.count, "side": self.side, "seen": seen}

    def __len__(self) -> int:
        return self.count

    def annotated(self, number: int) -> AnnotatedImage:
        scene, rng = self._scene(number)
        numbers = {item.name: label for label, item in enumerate(self.classes)}
        return annotated_scene(scene, numbers, describe(scene, rng))

    def _scene(self, number: int) -> tuple[Scene, np.random.Generator]:
        """The first scene of a stream of its own that shows nothing unseen."""
        for seed in range(_FIRST + number, 2**62, _NEXT_TRY):
            rng = scene_rng("train", seed)
            scene = draw_scene(rng, self.side)
            if not any(kind.name in self.unseen for kind in scene.kinds):
                return scene, rng
        raise AssertionError("every scene shows something unseen")


def annotated_scene(scene: Scene, numbers: Mapping[str, int], caption: str = "") -> AnnotatedImage:
    """A scene with the instances that can be seen; raises `KeyError` for a kind without a number."""
    seen, segments = np.unique(scene.instances, return_inverse=True)
    labels = tuple(numbers[scene.kinds[instance].name] for instance in seen)
    return AnnotatedImage(
        scene.image, segments.reshape(scene.instances.shape).astype(np.int32), labels, caption=caption
    )
