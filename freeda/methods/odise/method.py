"""Scores images with ODISE: masks by the diffusion model's features, names by these and by CLIP."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from freeda.class_names import ClassName
from freeda.methods.base import BackgroundSwitch, Scores
from freeda.methods.odise.classes import ClassTexts
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.fusion import fuse
from freeda.methods.odise.masks import MaskScores
from freeda.methods.odise.network import FrozenModels, OdiseNetwork
from freeda.methods.odise.settings import OdiseSettings
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import ClipModel
from freeda.models.clip_masks import embed_masks
from freeda.models.image_input import resize
from freeda.models.loading import weights_fingerprint

__all__ = ["EncodedImage", "OdiseMethod", "PreparedImage", "Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    clip_share: (C,) of CLIP's branch in the probability of each class.
    stuff: numbers of the classes without instances.
    seen: how many classes have a name that the network was trained on.
    """

    texts: ClassTexts
    clip_share: torch.Tensor
    stuff: frozenset[int]
    seen: int


@dataclass(frozen=True)
class PreparedImage:
    """pixels: (3, H, W) float32 in [0, 1], of the grid's size."""

    pixels: torch.Tensor
    grid: CropGrid


@dataclass(frozen=True)
class EncodedImage:
    """An image's queries, whatever the classes.

    masks: (Q, h, w) logits.
    embeddings: (Q, D), which the trained head compares with texts.
    clip: (Q, K) unit embeddings of the masks by CLIP.
    """

    masks: torch.Tensor
    embeddings: torch.Tensor
    clip: torch.Tensor

    @property
    def nbytes(self) -> int:
        return int(self.masks.nbytes + self.embeddings.nbytes + self.clip.nbytes)


class OdiseMethod(BackgroundSwitch):
    """A trained ODISE.

    checkpoint: of the network's weights.
    templates: prompts with a {} for the class name.
    background: whether pixels of none of the classes are labelled as background.
    """

    def __init__(
        self,
        frozen: FrozenModels,
        network: OdiseNetwork,
        checkpoint: Checkpoint,
        templates: Sequence[str],
        settings: OdiseSettings,
        *,
        background: bool = False,
        batch: int = 4,
    ) -> None:
        self.frozen, self.network, self.settings = frozen, network, settings
        self.batch = batch
        self._checkpoint = checkpoint
        self._templates = tuple(templates)
        self._with_background = background
        self._identity = {
            "method": "odise",
            "recipe": checkpoint.recipe,
            "weights": weights_fingerprint(network.state_dict()),
            **frozen.fingerprints(),
            "precision": str(frozen.diffusion.pipeline.unet.dtype).removeprefix("torch."),
            "templates": self._templates,
        }

    @property
    def clip(self) -> ClipModel:
        return self.frozen.clip

    @property
    def identity(self) -> Mapping[str, Any]:
        own = {**asdict(self.network.settings), **asdict(self.settings)}
        return {**self._identity, "with_background": self._with_background, **own}

    @property
    def image_settings(self) -> Hashable:
        return self.settings.clip_scale

    @property
    def native_side(self) -> int:
        return self.network.settings.side

    @torch.inference_mode()
    def encode_classes(self, classes: tuple[ClassName, ...]) -> Vocabulary:
        known = {name.casefold() for names in self._checkpoint.classes for name in names}
        seen = [any(name.casefold() in known for name in item.names) for item in classes]
        named = self._checkpoint.stuff if self.settings.stuff is None else self.settings.stuff
        stuff = {name.casefold() for name in named}
        share = [self.settings.seen_weight if one else self.settings.unseen_weight for one in seen]
        return Vocabulary(
            texts=ClassTexts.of(self.frozen.clip, classes, self._templates),
            clip_share=torch.tensor(share, device=self.frozen.clip.device),
            stuff=frozenset(
                number
                for number, item in enumerate(classes)
                if any(name.casefold() in stuff for name in item.names)
            ),
            seen=sum(seen),
        )

    def prepare(self, pixels: np.ndarray) -> PreparedImage:
        trained = self.network.settings
        grid = CropGrid.of(
            (pixels.shape[0], pixels.shape[1]),
            side=trained.side,
            window=trained.window,
            multiple=trained.multiple,
        )
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
        return PreparedImage(resize(image, grid.size)[0], grid)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[PreparedImage]) -> list[EncodedImage]:
        """Images of one size pass the models together."""
        found: dict[int, EncodedImage] = {}
        for grid in dict.fromkeys(image.grid for image in images):
            numbers = [number for number, image in enumerate(images) if image.grid == grid]
            stacked = torch.stack([images[number].pixels for number in numbers])
            found |= zip(numbers, self._encode(stacked, grid), strict=True)
        return [found[number] for number in range(len(images))]

    def _encode(self, images: torch.Tensor, grid: CropGrid) -> list[EncodedImage]:
        images = images.to(self.frozen.clip.device)
        queries = self.network(self.frozen, images, grid)[-1]
        masks = queries.masks.float()
        clip = embed_masks(self.frozen.clip, images, (masks > 0).float(), scale=self.settings.clip_scale)
        return [EncodedImage(*parts) for parts in zip(masks, queries.embeddings.float(), clip, strict=True)]

    def score(self, images: Sequence[EncodedImage], classes: Vocabulary) -> list[Scores]:
        return [self._score(image, classes) for image in images]

    @torch.inference_mode()
    def _score(self, image: EncodedImage, classes: Vocabulary) -> Scores:
        by_head, nothing = self._by_head(image, classes.texts)
        fused = fuse(by_head, self._by_clip(image, classes.texts), classes.clip_share, nothing)
        scores = MaskScores(
            image.masks, fused, nothing, classes.stuff, self.settings.overlap, self.settings.instances
        )
        counts = {
            "classes seen in training": classes.seen,
            "other classes": len(classes.clip_share) - classes.seen,
        }
        return Scores(scores, counts, segments=scores.cpu())

    def _by_head(self, image: EncodedImage, texts: ClassTexts) -> tuple[torch.Tensor, torch.Tensor]:
        """(Q, C) log-probabilities among the classes, and (Q,) the probability of "no object"."""
        names = self.network.head.class_logits(image.embeddings, texts.vectors)
        logits = texts.by_class(names)
        return logits[:, :-1].log_softmax(-1), logits.softmax(-1)[:, -1]

    def _by_clip(self, image: EncodedImage, texts: ClassTexts) -> torch.Tensor:
        """(Q, C) log-probabilities among the classes."""
        scale = self.frozen.clip.network.logit_scale.exp().float()
        cosines = torch.nn.functional.pad(image.clip @ texts.vectors.T, (0, 1))
        return (texts.by_class(cosines)[:, :-1] * scale).log_softmax(-1)
