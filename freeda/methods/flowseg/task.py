"""What FlowSeg learns: velocities towards the centroids of the labels, and features alike to a backbone's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional

from freeda.methods.flowseg.field import (
    class_log_probabilities,
    endpoint,
    pull,
    squared_distances,
)
from freeda.methods.flowseg.network import FlowNetwork, as_places
from freeda.models.backbone import Backbone
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage, AnnotatedImages
from freeda.segmentation.views import random_view

__all__ = ["OBJECTIVES", "FlowSegTask", "LossSettings", "Objective"]

Objective = Literal["reshaped", "plain", "cross-entropy"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """objective: "reshaped" is the paper's; "plain" is flow matching without what pulls and repels;
        "cross-entropy" is none, but a classifier by distance in one step.
    align_weight: of the alignment with the backbone's features (REPA).
    jitter: range of the scales at which images are seen.
    """

    objective: Objective = "reshaped"
    align_weight: float = 0.5
    jitter: tuple[float, float] = (1.0, 1.0)


class FlowSegTask:
    """Trains a `FlowNetwork` on annotated images, whose segments count as labels only.

    backbone: whose features the network's are aligned with; None for none.
    """

    name = "flowseg"

    def __init__(
        self,
        network: FlowNetwork,
        data: AnnotatedImages,
        settings: LossSettings,
        *,
        backbone: Backbone | None,
    ) -> None:
        self.network = network
        self._data, self._settings, self._backbone = data, settings, backbone
        self.figures: Mapping[str, float] = {}

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        network, device = self.network, self.network.centroids.device
        examples = [self._data.annotated(int(number)) for number in numbers]
        views = [random_view(item, network.settings.side, self._settings.jitter, rng) for item in examples]
        images = torch.from_numpy(np.stack([view.image for view in views])).to(device)
        images = images.permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(np.stack([_labels(view) for view in views])).to(device)
        time = torch.from_numpy(rng.random(len(views), np.float32)).to(device)
        if self._settings.objective == "cross-entropy":
            time = torch.zeros_like(time)
        start = as_places(images, network.settings.dimensions)
        goal = network.centroids[labels.clamp(min=0)].permute(0, 3, 1, 2)
        goal = torch.where(labels[:, None] >= 0, goal, start)
        when = time[:, None, None, None]
        places = (1 - when) * start + when * goal
        velocity, tokens = network(places, time)
        with torch.autocast(device.type, enabled=False):
            ends = endpoint(places, velocity.float(), when)
            total = self._flow_loss(velocity.float(), goal - start, ends, labels)
            return total + self._settings.align_weight * self._align_loss(tokens.float(), images)

    def _flow_loss(
        self, velocity: torch.Tensor, true: torch.Tensor, ends: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The mean over marked pixels."""
        settings, marked = self.network.settings, labels >= 0
        own, centroids = labels[marked], self.network.centroids
        moved, wanted, places = (part.permute(0, 2, 3, 1)[marked] for part in (velocity, true, ends))
        if self._settings.objective == "cross-entropy":
            distances = squared_distances(places, centroids)
            logs = class_log_probabilities(distances, settings.epsilon, settings.temperature)
            total = functional.nll_loss(logs, own, reduction="sum")
        else:
            if self._settings.objective == "reshaped":
                wanted = wanted - pull(places, own, centroids, settings.epsilon, settings.temperature)
            total = (moved - wanted).square().sum()
        found = total / max(len(own), 1)
        with torch.no_grad():
            right = squared_distances(places, centroids).argmin(1) == own
        self.figures = {"flow": float(found.detach()), "accuracy": float(right.float().mean())}
        return found

    def _align_loss(self, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """One less the cosine of projected tokens and the backbone's features of the same places."""
        if self._backbone is None or self.network.alignment is None:
            return tokens.sum() * 0
        with torch.no_grad():
            settings = self.network.settings
            known = self._backbone.dense_features(images, settings.side).clone()
            grid = settings.side // settings.patch
            known = functional.interpolate(known, (grid, grid), mode="bilinear", align_corners=False)
        projected = self.network.alignment(tokens).transpose(1, 2)
        apart = 1 - functional.cosine_similarity(projected, known.flatten(2), dim=1).mean()
        self.figures = {**self.figures, "alignment": float(apart.detach())}
        return apart


def _labels(view: AnnotatedImage) -> np.ndarray:
    """(H, W) int64 classes; `UNMARKED` where there is none, or none of the classes."""
    table = np.array([*view.labels, UNMARKED, UNMARKED], np.int64)  # the last two are OTHER's and UNMARKED's
    return table[view.segments]
