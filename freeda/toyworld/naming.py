"""Do generated pictures show what their captions name? A classifier on the dense backbone answers.

It knows the mean feature of every kind from true scenes, calls each patch by the nearest mean, and the
picture by the kind of thing that most of its patches are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from freeda.models.backbone import Backbone
from freeda.toyworld.vocabulary import THINGS
from freeda.vectors import unit

__all__ = ["PatchClassifier", "share_named_right"]


@dataclass(frozen=True)
class PatchClassifier:
    """Nearest class mean of patch features, by cosine.

    size: pixels of a side that the backbone sees.
    means: (K, D) unit vectors, the kinds of things first.
    """

    backbone: Backbone
    size: int
    means: np.ndarray

    @classmethod
    def of(cls, backbone: Backbone, size: int, features: np.ndarray, labels: np.ndarray) -> PatchClassifier:
        """features: (R, D) of regions of true scenes; labels: (R,) their kinds, each at least once."""
        means = np.stack([features[labels == kind].mean(0) for kind in range(labels.max() + 1)])
        return cls(backbone, size, unit(means))

    def things(self, images: torch.Tensor) -> list[int | None]:
        """The thing in each of (B, 3, H, W) RGB images in [0, 1]; None where no patch looks like one."""
        dense = self.backbone.dense_features(images, self.size).cpu().numpy()
        nearest = np.einsum("kd,bdhw->bkhw", self.means, dense).argmax(1)
        return [_majority(patches[patches < len(THINGS)]) for patches in nearest]


def _majority(kinds: np.ndarray) -> int | None:
    return int(np.bincount(kinds).argmax()) if len(kinds) else None


def share_named_right(found: Sequence[int | None], named: Sequence[int]) -> float:
    """The share of pictures in which the thing found is the one named."""
    return float(np.mean([one == other for one, other in zip(found, named, strict=True)]))
