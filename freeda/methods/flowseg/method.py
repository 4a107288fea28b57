"""Scores images with FlowSeg: pixels flow from their colours to the centroids of classes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from freeda.class_names import ClassName, shortened
from freeda.errors import ClassNamesError
from freeda.methods.base import BackgroundSwitch, Scores
from freeda.methods.flowseg.centroids import project_texts
from freeda.methods.flowseg.field import squared_distances
from freeda.methods.flowseg.network import FlowNetwork, as_points
from freeda.methods.flowseg.settings import FlowSegSettings
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import ClipModel
from freeda.models.image_input import grid_size, resize
from freeda.models.loading import weights_fingerprint
from freeda.segmentation.score_maps import best_class

__all__ = ["CentroidScores", "FlowSegMethod", "TextSpace", "Vocabulary", "flow"]

_CLASSES_AT_ONCE = 64
_NAMES_TOLD = 60


@dataclass(frozen=True)
class TextSpace:
    """What places a class by its name.

    clip: the text encoder. templates: prompts with a {} for the name.
    mean: (K,) of the embeddings of the classes in training.
    """

    clip: ClipModel
    templates: tuple[str, ...]
    mean: np.ndarray

    @classmethod
    def of(cls, clip: ClipModel, templates: Sequence[str], classes: Sequence[ClassName]) -> TextSpace:
        return cls(clip, tuple(templates), clip.embed_classes(classes, templates).mean(0))

    def place(self, classes: Sequence[ClassName], dimensions: int) -> torch.Tensor:
        """(C, D) centroids."""
        texts = self.clip.embed_classes(classes, self.templates)
        return torch.from_numpy(project_texts(texts, self.mean, dimensions))


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    centroids: (N, D): of all classes in training, then of others.
    members: of each class asked for, the centroids that stand for it.
    """

    centroids: torch.Tensor
    members: tuple[tuple[int, ...], ...]


@torch.inference_mode()
def flow(network: FlowNetwork, images: torch.Tensor, steps: int) -> torch.Tensor:
    """(B, D, H, W): x_1, where the pixels of images in [0, 1] end, by Euler's method."""
    weight = network.patches.weight
    x_t = as_points(images.to(weight.device, torch.float32), network.settings.dimensions)
    for number in range(steps):
        time = torch.full((len(x_t),), number / steps, device=x_t.device)
        velocity, _ = network(x_t.to(weight.dtype), time)
        x_t = x_t + velocity.float() / steps
    return x_t


@dataclass(frozen=True)
class CentroidScores:
    """Every class's probability among all that are known, by the distance to its nearest centroid.

    Classes are scored in parts, for thousands of maps of a large image do not fit in memory.

    endpoints: (D, h, w) where pixels end.
    log_total: (h, w) logarithm of what the probabilities are divided by.
    """

    endpoints: torch.Tensor
    classes: Vocabulary
    epsilon: float
    temperature: float
    log_total: torch.Tensor

    @classmethod
    def of(
        cls, endpoints: torch.Tensor, classes: Vocabulary, epsilon: float, temperature: float
    ) -> CentroidScores:
        total = torch.full(endpoints.shape[1:], -torch.inf, device=endpoints.device)
        for some in classes.centroids.split(_CLASSES_AT_ONCE):
            logs = _log_weights(endpoints, some, epsilon, temperature)
            total = torch.logaddexp(total, logs.logsumexp(0))
        return cls(endpoints, classes, epsilon, temperature, total)

    def __len__(self) -> int:
        return len(self.classes.members)

    def best(self, size: tuple[int, int], classes: slice) -> tuple[np.ndarray, np.ndarray]:
        labels, scores = np.zeros(size, np.int32), np.full(size, -np.inf, np.float32)
        for first, maps in self._parts(range(len(self))[classes]):
            found, values = best_class(maps, size)
            better = values > scores
            labels[better], scores[better] = found[better] + first, values[better]
        return labels, scores

    def dense(self) -> torch.Tensor:
        return torch.cat([maps for _, maps in self._parts(range(len(self)))])

    def _parts(self, numbers: range) -> Iterator[tuple[int, torch.Tensor]]:
        """(C, h, w) probabilities of some classes at a time, after how many of `numbers` come before them."""
        for first in range(0, len(numbers), _CLASSES_AT_ONCE):
            members = [self.classes.members[number] for number in numbers[first : first + _CLASSES_AT_ONCE]]
            flat = [number for some in members for number in some]
            logs = _log_weights(self.endpoints, self.classes.centroids[flat], self.epsilon, self.temperature)
            parts = logs.split([len(some) for some in members])
            best = torch.stack([part.amax(0) for part in parts])
            yield first, (best - self.log_total).exp().cpu()


def _log_weights(
    endpoints: torch.Tensor, centroids: torch.Tensor, epsilon: float, temperature: float
) -> torch.Tensor:
    """(N, h, w) logarithms of what probabilities are proportional to."""
    distances = squared_distances(endpoints.flatten(1).T, centroids).T
    return (-(distances + epsilon).log() / temperature).unflatten(1, tuple(endpoints.shape[1:]))


class FlowSegMethod(BackgroundSwitch):
    """A trained FlowSeg.

    texts: places classes that were not in training; None where the vocabulary is closed.
    background: whether pixels of none of the classes are labelled as background.
    """

    def __init__(
        self,
        network: FlowNetwork,
        checkpoint: Checkpoint,
        settings: FlowSegSettings,
        *,
        texts: TextSpace | None = None,
        background: bool = False,
        batch: int = 8,
    ) -> None:
        self.network, self.settings, self.batch = network, settings, batch
        self._checkpoint, self._texts = checkpoint, texts
        self._with_background = background
        self._identity = {
            "method": "flowseg",
            "recipe": checkpoint.recipe,
            "weights": weights_fingerprint(network.state_dict()),
            **checkpoint.frozen,
            "precision": str(network.patches.weight.dtype).removeprefix("torch."),
            **({} if texts is None else {"templates": texts.templates}),
        }

    @property
    def identity(self) -> Mapping[str, Any]:
        own = {**asdict(self.network.settings), **asdict(self.settings)}
        return {**self._identity, "with_background": self._with_background, **own}

    @property
    def image_settings(self) -> Hashable:
        return self.settings.steps

    @property
    def native_side(self) -> int:
        return self.network.settings.side

    def encode_classes(self, classes: tuple[ClassName, ...]) -> Vocabulary:
        """Raises `ClassNamesError` for a class that was not in training, where the vocabulary is closed."""
        known: dict[str, int] = {}
        for number, names in enumerate(self._checkpoint.classes):
            known |= {name.casefold(): number for name in names}
        found = [
            {known[name.casefold()] for name in item.names if name.casefold() in known} for item in classes
        ]
        strangers = [item for item, numbers in zip(classes, found, strict=True) if not numbers]
        if strangers and self._texts is None:
            raise ClassNamesError(self._told(strangers[0]))
        centroids, first = self.network.centroids.float(), len(self.network.centroids)
        if strangers and self._texts is not None:
            placed = self._texts.place(strangers, self.network.settings.dimensions)
            centroids = torch.cat([centroids, placed.to(centroids)])
        new = iter(range(first, len(centroids)))
        members = tuple(tuple(sorted(numbers)) or (next(new),) for numbers in found)
        return Vocabulary(centroids, members)

    def _told(self, stranger: ClassName) -> str:
        names = [names[0] for names in self._checkpoint.classes]
        listed = ", ".join(names[:_NAMES_TOLD]) + (", ..." if len(names) > _NAMES_TOLD else "")
        return (
            f"class '{shortened(stranger.name)}' was not in training, and FlowSeg knows no other; its "
            f"{len(names)} classes are {listed}"
        )

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        """(3, H, W) in [0, 1], whose shorter side is the network's; both are whole patches."""
        settings = self.network.settings
        size = grid_size((pixels.shape[0], pixels.shape[1]), settings.side, settings.patch)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
        return resize(image, size)[0]

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(D, H, W) where pixels end; images of one size pass the network together."""
        found: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            numbers = [number for number, image in enumerate(images) if image.shape == shape]
            ends = flow(self.network, torch.stack([images[n] for n in numbers]), self.settings.steps)
            found |= zip(numbers, ends, strict=True)
        return [found[number] for number in range(len(images))]

    @torch.inference_mode()
    def score(self, images: Sequence[torch.Tensor], classes: Vocabulary) -> list[Scores]:
        settings, counts = self.network.settings, self._counts(classes)
        return [
            Scores(CentroidScores.of(image, classes, settings.epsilon, settings.temperature), counts)
            for image in images
        ]

    def _counts(self, classes: Vocabulary) -> Mapping[str, int]:
        trained = sum(members[0] < len(self.network.centroids) for members in classes.members)
        return {"classes in training": trained, "other classes": len(classes.members) - trained}
