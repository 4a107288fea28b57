"""What ODISE learns: masks and their names, or masks and what captions mention (sections 3.3 and 3.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from freeda.class_names import ClassName
from freeda.methods.odise.classes import ClassTexts
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.grounding import NOUNS, draw_nouns, gathered, grounding_loss
from freeda.methods.odise.head import MaskQueries, mask2former_config
from freeda.methods.odise.network import FrozenModels, OdiseNetwork
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.trained import EmptyImages
from freeda.segmentation.annotations import AnnotatedImage, AnnotatedImages
from freeda.segmentation.views import random_view

__all__ = ["OdiseTask", "Recipe"]

Recipe = Literal["labels", "captions"]
_LABEL_FIGURES = ("mask", "dice", "cross_entropy", "queries_with_a_class")
_FIGURES = {"labels": _LABEL_FIGURES, "captions": (*_LABEL_FIGURES, "grounding")}
_CLASS_WEIGHT, _MASK_WEIGHT, _DICE_WEIGHT, _GROUNDING_WEIGHT = 2.0, 5.0, 5.0, 2.0


@dataclass(frozen=True)
class _Targets:
    """Of one image. masks: (S, H, W) float. labels: (S,)."""

    masks: torch.Tensor
    labels: torch.Tensor


class OdiseTask:
    """Trains an `OdiseNetwork` on annotated images.

    recipe: "labels" teaches the classes of the segments; "captions" only that a segment is a thing, and
        which nouns a caption mentions.
    points: of every mask, at which losses are computed.
    jitter: range of the scales at which images are seen.
    """

    name = "odise"

    def __init__(
        self,
        frozen: FrozenModels,
        network: OdiseNetwork,
        settings: NetworkSettings,
        data: AnnotatedImages,
        *,
        recipe: Recipe = "labels",
        templates: Sequence[str],
        points: int = 1024,
        jitter: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.network = network
        self.figures: Mapping[str, float] = dict.fromkeys(_FIGURES[recipe], math.nan)
        self._empty = EmptyImages()
        self._silent = EmptyImages("have no two captions with nouns")
        self._frozen, self._settings, self._data = frozen, settings, data
        self._recipe, self._templates, self._jitter = recipe, tuple(templates), jitter
        self._device = frozen.diffusion.pipeline.device
        classes = data.classes if recipe == "labels" else (ClassName("thing"),)
        self._texts = ClassTexts.of(frozen.clip, classes, templates)
        self._losses = _Losses(mask2former_config(settings, len(classes), points), {}).to(self._device)

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        side = self._settings.side
        examples = [self._data.annotated(int(number)) for number in numbers]
        views = [random_view(example, side, self._jitter, rng) for example in examples]
        targets = [self._targets(view) for view in views]
        kept = [number for number, target in enumerate(targets) if len(target.labels)]
        # Before anything else, for every process must take part in it.
        self._losses.count_masks(sum(len(target.labels) for target in targets))
        if not kept and self._recipe == "labels":
            return self._nothing(len(views))
        # Captions are told apart across processes, so that none may be missing.
        shown = kept or [0]
        images = torch.from_numpy(np.stack([views[number].image for number in shown])).to(self._device)
        images = images.permute(0, 3, 1, 2).float() / 255
        grid = CropGrid.of(
            (side, side), side=side, window=self._settings.window, multiple=self._settings.multiple
        )
        layers = self.network(self._frozen, images, grid)
        with torch.autocast(self._device.type, enabled=False):
            total = self._total(layers, [targets[n] for n in kept]) if kept else self._nothing(len(views))
            if self._recipe == "captions":
                total = total + _GROUNDING_WEIGHT * self._grounding(layers, [views[n] for n in shown], rng)
            return total

    def _nothing(self, images: int) -> torch.Tensor:
        """The loss of images without a segment that could be learnt."""
        self.figures = dict.fromkeys(_FIGURES[self._recipe], math.nan)
        self._empty.count(images, empty=True)
        return torch.stack([weight.sum() * 0 for weight in self.network.parameters()]).sum()

    def _grounding(
        self, layers: Sequence[MaskQueries], views: Sequence[AnnotatedImage], rng: np.random.Generator
    ) -> torch.Tensor:
        """The sum over layers; images whose captions have no nouns are left out, for they tell nothing.

        Images are told from those of all processes, each of which computes the same.
        """
        nouns = [draw_nouns(view.nouns, rng) for view in views]
        told = torch.tensor([bool(some) for some in nouns], device=self._device)
        names = [ClassName(noun) for some in nouns for noun in some or [""] * NOUNS]
        texts = torch.from_numpy(self._frozen.clip.embed_classes(names, self._templates)).to(self._device)
        queries = gathered(torch.stack([layer.embeddings.float() for layer in layers], 1))
        texts = gathered(texts.unflatten(0, (len(views), NOUNS)))
        told = gathered(told.float()) > 0
        self._silent.count(len(views), empty=bool(told.sum() < 2))
        if told.sum() < 2:
            return queries.sum() * 0
        losses = []
        for layer in queries[told].unbind(1):
            cosines = self.network.head.class_logits(layer, texts[told].flatten(0, 1))[..., :-1]
            losses.append(grounding_loss(cosines.unflatten(-1, (len(layer), -1))))
        total = torch.stack(losses).sum()
        self.figures = {**self.figures, "grounding": float(total.detach())}
        return total

    def _total(self, layers: Sequence[MaskQueries], targets: Sequence[_Targets]) -> torch.Tensor:
        """The weighted losses of all layers."""
        self._empty.count(len(targets), empty=False)
        parts: dict[str, torch.Tensor] = {}
        for layer in layers:
            logits = self._logits(layer)
            found: Mapping[str, torch.Tensor] = self._losses(
                layer.masks.float(),
                logits,
                [target.masks for target in targets],
                [target.labels for target in targets],
            )
            parts = {name: parts.get(name, 0) + value for name, value in found.items()}
        shares = logits.argmax(-1) != logits.shape[-1] - 1
        self.figures = {
            **{name.removeprefix("loss_"): float(value.detach()) for name, value in parts.items()},
            "queries_with_a_class": float(shares.float().mean()),
            **({"grounding": math.nan} if self._recipe == "captions" else {}),
        }
        return (
            _CLASS_WEIGHT * parts["loss_cross_entropy"]
            + _MASK_WEIGHT * parts["loss_mask"]
            + _DICE_WEIGHT * parts["loss_dice"]
        )

    def _logits(self, layer: MaskQueries) -> torch.Tensor:
        """(B, Q, C + 1) in float32."""
        names = self.network.head.class_logits(layer.embeddings.float(), self._texts.vectors)
        return self._texts.by_class(names)

    def _targets(self, view: AnnotatedImage) -> _Targets:
        """Segments of at least one cell of the finest grid, for smaller ones cannot be drawn; no crowds."""
        least = self._settings.strides[0] ** 2
        areas = np.bincount(view.segments[view.segments >= 0], minlength=len(view.labels))
        kept = [n for n in np.flatnonzero(areas >= least) if n not in view.crowds]
        masks = torch.from_numpy(view.segments[None] == np.array(kept, np.int64)[:, None, None]).float()
        labels = np.array(view.labels, np.int64)[kept]
        if self._recipe == "captions":
            labels[:] = 0
        return _Targets(masks.to(self._device), torch.from_numpy(labels).to(self._device))


class _Losses(Mask2FormerLoss):
    """Transformers' losses, with the mean number of masks per process taken once per step.

    The original averages it over all processes at every layer, and then divides it by their number again.
    """

    def count_masks(self, count: int) -> None:
        """Takes the mean over all processes of their numbers of masks."""
        from accelerate.utils import reduce

        mean: torch.Tensor = reduce(torch.tensor(float(count), device=self.empty_weight.device), "mean")
        self._masks = mean.clamp(min=1)

    def get_num_masks(self, class_labels: Any, device: torch.device) -> torch.Tensor:
        return self._masks
