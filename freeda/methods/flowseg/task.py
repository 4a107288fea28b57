"""What FlowSeg learns: velocities towards the centroids of the labels, and features alike to a backbone's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from freeda.methods.flowseg.field import (
    class_log_probabilities,
    distance_term,
    endpoint,
    squared_distances,
)
from freeda.methods.flowseg.network import FlowNetwork, as_points
from freeda.methods.trained import EmptyImages
from freeda.models.backbone import Backbone
from freeda.segmentation.annotations import AnnotatedImages
from freeda.segmentation.views import random_view

__all__ = ["FlowSegTask", "LossSettings"]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """align_weight: of the alignment with the backbone's features (REPA). Beside the reshaped target's large
        gradients, the usual 0.5 would hardly count.
    class_weight: of the tokens' classification by a linear layer, which is no part of the paper. From random
        weights, positions in a space of three dimensions hardly teach what tells many objects apart.
    pretrained: share of the training, its first, in which nothing but this classification is learnt, from
        images alone: a stand-in for the paper's pretraining on ImageNet.
    time_power: times are u^time_power, with u uniform in [0, 1]. Above 1, more of them are near 0, where only
        the image tells its classes.
    jitter: range of the scales at which images are seen.
    """

    align_weight: float = 5.0
    class_weight: float = 0.0
    pretrained: float = 0.0
    time_power: float = 1.0
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
        self._empty = EmptyImages()

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        network, device = self.network, self.network.centroids.device
        examples = [self._data.annotated(int(number)) for number in numbers]
        views = [random_view(item, network.settings.side, self._settings.jitter, rng) for item in examples]
        images = torch.from_numpy(np.stack([view.image for view in views])).to(device)
        images = images.permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(np.stack([view.label_map for view in views])).to(device)
        self._empty.count(len(views), empty=not (labels >= 0).any())
        if progress < self._settings.pretrained:
            return self._pretraining_loss(images, labels)
        time = torch.from_numpy(rng.random(len(views), np.float32)).to(device) ** self._settings.time_power
        if network.settings.objective == "cross-entropy":
            time = torch.zeros_like(time)
        x_0 = as_points(images, network.settings.dimensions)
        x_1 = network.centroids[labels.clamp(min=0)].permute(0, 3, 1, 2)
        x_1 = torch.where(labels[:, None] >= 0, x_1, x_0)
        t = time[:, None, None, None]
        x_t = (1 - t) * x_0 + t * x_1
        velocity, tokens = network(x_t, time)
        with torch.autocast(device.type, enabled=False):
            tokens, endpoints = tokens.float(), endpoint(x_t, velocity.float(), t)
            flow = self._flow_loss(velocity.float(), x_1 - x_0, endpoints, labels)
            aligned, classified = self._align_loss(tokens, images), self._class_loss(tokens, labels)
            return flow + self._settings.align_weight * aligned + self._settings.class_weight * classified

    def _flow_loss(
        self, velocity: torch.Tensor, true: torch.Tensor, endpoints: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The mean over marked pixels."""
        settings, marked = self.network.settings, labels >= 0
        own, centroids = labels[marked], self.network.centroids
        predicted, target, points = (part.permute(0, 2, 3, 1)[marked] for part in (velocity, true, endpoints))
        term, nearest = distance_term(points, own, centroids, settings.epsilon, settings.temperature)
        if settings.objective == "cross-entropy":
            distances = squared_distances(points, centroids)
            logs = class_log_probabilities(distances, settings.epsilon, settings.temperature)
            total = functional.nll_loss(logs, own, reduction="sum")
        else:
            target = target - term if settings.objective == "reshaped" else target
            total = (predicted - target).square().sum()
        found = total / max(len(own), 1)
        accuracy = (nearest == own).float().mean()
        self.figures = {"flow": float(found.detach()), "accuracy": float(accuracy)}
        return found

    def _pretraining_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x_0 = as_points(images, self.network.settings.dimensions)
        tokens = self.network.first_tokens(x_0, torch.zeros(len(x_0), device=x_0.device))
        self.figures = {"flow": math.nan, "accuracy": math.nan}
        with torch.autocast(x_0.device.type, enabled=False):
            return self._class_loss(tokens.float(), labels)

    def _class_loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of every marked pixel's class, as its token tells it."""
        classifier, side = self.network.classifier, self.network.settings.patch
        if classifier is None:
            return tokens.sum() * 0
        logs = classifier(functional.rms_norm(tokens, tokens.shape[-1:])).log_softmax(-1)
        own = functional.pixel_unshuffle(labels[:, None], side).flatten(2).transpose(1, 2)  # (B, N, P)
        found: torch.Tensor = -logs.gather(-1, own.clamp(min=0))[own >= 0].sum() / max((own >= 0).sum(), 1)
        self.figures = {**self.figures, "class": float(found.detach())}
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
