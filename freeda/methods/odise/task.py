"""What ODISE learns: masks and their names, or masks and what captions mention (sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from freeda.class_names import ClassName
from freeda.methods.odise.classes import ClassTexts
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.head import MaskQueries, mask2former_config
from freeda.methods.odise.network import FrozenModels, OdiseNetwork
from freeda.methods.odise.settings import OdiseSettings
from freeda.segmentation.annotations import AnnotatedImage, AnnotatedImages

__all__ = ["OdiseTask", "Recipe"]

Recipe = Literal["labels", "captions"]
_CLASS_WEIGHT, _MASK_WEIGHT, _DICE_WEIGHT = 2.0, 5.0, 5.0
_NOUNS = 8
"""That are drawn, with replacement, from a caption."""


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
    """

    name = "odise"

    def __init__(
        self,
        frozen: FrozenModels,
        network: OdiseNetwork,
        settings: OdiseSettings,
        data: AnnotatedImages,
        *,
        recipe: Recipe = "labels",
        templates: Sequence[str],
        points: int = 1024,
    ) -> None:
        self.network = network
        self.figures: Mapping[str, float] = {}
        self._frozen, self._settings, self._data = frozen, settings, data
        self._recipe, self._templates = recipe, tuple(templates)
        self._device = frozen.diffusion.pipeline.device
        classes = data.classes if recipe == "labels" else (ClassName("thing"),)
        self._texts = ClassTexts.of(frozen.clip, classes, templates)
        self._losses = _Losses(mask2former_config(settings, len(classes), points), {}).to(self._device)

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        side = self._settings.side
        views = [_view(self._data.annotated(int(number)), side, rng) for number in numbers]
        targets = [self._targets(view) for view in views]
        kept = [number for number, target in enumerate(targets) if len(target.labels)]
        if not kept:
            return sum(weight.sum() * 0 for weight in self.network.parameters())  # type: ignore[return-value]
        images = torch.from_numpy(np.stack([views[number].image for number in kept])).to(self._device)
        images = images.permute(0, 3, 1, 2).float() / 255
        grid = CropGrid.of(
            (side, side), side=side, window=self._settings.window, multiple=self._settings.multiple
        )
        layers = self.network(self._frozen, images, grid)
        with torch.autocast(self._device.type, enabled=False):
            return self._total(layers, [targets[number] for number in kept])

    def _total(self, layers: Sequence[MaskQueries], targets: Sequence[_Targets]) -> torch.Tensor:
        """The weighted losses of all layers."""
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
        """Segments of at least one cell of the finest grid; smaller ones cannot be drawn."""
        least = self._settings.strides[0] ** 2
        areas = np.bincount(view.segments[view.segments >= 0], minlength=len(view.labels))
        kept = np.flatnonzero(areas >= least)
        masks = torch.from_numpy(view.segments[None] == kept[:, None, None]).float()
        labels = np.array(view.labels, np.int64)[kept]
        if self._recipe == "captions":
            labels[:] = 0
        return _Targets(masks.to(self._device), torch.from_numpy(labels).to(self._device))


class _Losses(Mask2FormerLoss):
    """Transformers' losses, with the mean number of masks per process taken once.

    The original averages it over all processes and then divides it by their number again.
    """

    def get_num_masks(self, class_labels: Any, device: torch.device) -> torch.Tensor:
        from accelerate.utils import reduce

        count = torch.tensor(float(sum(map(len, class_labels))), device=device)
        mean: torch.Tensor = reduce(count, "mean")
        return mean.clamp(min=1)


def _view(item: AnnotatedImage, side: int, rng: np.random.Generator) -> AnnotatedImage:
    """The image mirrored or not, as a square of `side` pixels."""
    image, segments = item.image, item.segments
    if rng.random() < 0.5:
        image, segments = image[:, ::-1], segments[:, ::-1]
    return replace(item, image=np.ascontiguousarray(image), segments=np.ascontiguousarray(segments))
