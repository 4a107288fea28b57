"""Scores images with DiGSeg: a mask per class, painted by a diffusion model's UNet."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from more_itertools import chunked

from freeda.class_names import ClassName
from freeda.methods.base import BackgroundSwitch, Scores
from freeda.methods.digseg.sampling import denoised, last_step, mask_schedule, one_step
from freeda.methods.digseg.settings import DigSegSettings
from freeda.methods.digseg.texts import QueryTexts
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import ClipModel
from freeda.models.diffusion import encode_latents
from freeda.models.image_input import grid_size, resize
from freeda.models.loading import weights_fingerprint
from freeda.segmentation.score_maps import DenseScores

__all__ = ["DigSegMethod", "EncodedImage", "Frozen", "Vocabulary", "most_present"]


@dataclass(frozen=True)
class Frozen:
    """What is never trained: autoencoder and text encoder of a pipeline, and CLIP."""

    pipeline: Any
    clip: ClipModel

    @property
    def text_width(self) -> int:
        """Of CLIP's joint space."""
        return int(self.clip.embed_texts([""]).shape[-1])

    @cached_property
    def schedule(self) -> DDIMScheduler:
        """Of the masks' noise; raises `ConfigError`."""
        return mask_schedule(self.pipeline)

    def fingerprints(self) -> Mapping[str, str]:
        """By role, of the weights and of the noise schedule."""
        return {
            "vae": weights_fingerprint(self.pipeline.vae.state_dict()),
            "text_encoder": weights_fingerprint(self.pipeline.text_encoder.state_dict()),
            "schedule": weights_fingerprint({"alphas": self.schedule.alphas_cumprod}),
            "clip": self.clip.fingerprint(),
        }


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    queries: by their first names, for a pass of the UNet per synonym would cost too much.
    embeddings: (C, K) of all their names, by CLIP, for the presence filter.
    """

    queries: QueryTexts
    embeddings: torch.Tensor


@dataclass(frozen=True)
class EncodedImage:
    """latents: (c, h, w). embedding: (K,) of the whole image by CLIP, of unit length."""

    latents: torch.Tensor
    embedding: torch.Tensor

    @property
    def nbytes(self) -> int:
        return int(self.latents.nbytes + self.embedding.nbytes)


class DigSegMethod(BackgroundSwitch):
    """A trained DiGSeg.

    templates: prompts for CLIP.
    background: whether pixels of none of the classes are labelled as background.
    classes_at_once: how many pass the UNet together.
    """

    batch = 1

    def __init__(
        self,
        frozen: Frozen,
        network: SegmentingUNet,
        checkpoint: Checkpoint,
        templates: Sequence[str],
        settings: DigSegSettings,
        *,
        background: bool = False,
        classes_at_once: int = 16,
    ) -> None:
        self.frozen, self.network, self.settings = frozen, network, settings
        self._at_once = classes_at_once
        self._recipe = checkpoint.recipe
        self._templates = tuple(templates)
        self._with_background = background
        self._identity = {
            "method": "digseg",
            "recipe": checkpoint.recipe,
            "weights": weights_fingerprint(network.state_dict()),
            **checkpoint.frozen,
            "precision": str(network.unet.dtype).removeprefix("torch."),
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
        return ()

    @property
    def native_side(self) -> int:
        return self.network.settings.side

    def encode_classes(self, classes: tuple[ClassName, ...]) -> Vocabulary:
        """Raises `ClassNamesError` for a name that does not fit a prompt."""
        names, prompt = [item.name for item in classes], self.network.settings.prompt
        queries = QueryTexts.of(self.frozen.pipeline, self.clip, names, prompt, self._templates)
        embeddings = torch.from_numpy(self.clip.embed_classes(classes, self._templates))
        return Vocabulary(queries, embeddings.to(self.clip.device))

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        """(3, H, W) in [0, 1], whose shorter side is the network's; both are multiples of its `multiple`."""
        settings = self.network.settings
        size = grid_size((pixels.shape[0], pixels.shape[1]), settings.side, settings.multiple)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 255
        return resize(image, size)[0]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[torch.Tensor]) -> list[EncodedImage]:
        return [self._encode(image[None].to(self.clip.device)) for image in images]

    def _encode(self, image: torch.Tensor) -> EncodedImage:
        latents = encode_latents(self.frozen.pipeline, image)
        return EncodedImage(latents[0], self.clip.embed_images(image)[0])

    def score(self, images: Sequence[EncodedImage], classes: Vocabulary) -> list[Scores]:
        return [self._score(image, classes) for image in images]

    @torch.inference_mode()
    def _score(self, image: EncodedImage, classes: Vocabulary) -> Scores:
        probability = self.clip.probabilities(image.embedding, classes.embeddings)
        asked = self._asked(probability)
        latents = torch.cat(list(self._masks(image, classes.queries, asked)))
        chosen = most_present(self.network.masks.read(latents), self.settings.decoded)
        pipeline = self.frozen.pipeline
        decoded = [self.network.masks.decode(pipeline, latents[n : n + 1]) for n in chosen]
        numbers = [asked[n] for n in chosen]
        masks = (torch.cat(decoded) / 2 + 0.5).cpu()
        if power := self.settings.presence_power:
            masks = masks.clamp(min=0) * (probability[numbers].cpu() ** power)[:, None, None]
        scores = DenseScores(masks, numbers, len(classes.queries))
        counts = {
            "classes decoded": len(numbers),
            "classes not decoded": len(asked) - len(numbers),
            "classes left out by CLIP": len(classes.queries) - len(asked),
        }
        return Scores(scores, counts)

    def _asked(self, probability: torch.Tensor) -> list[int]:
        """The classes that CLIP deems possible; never none."""
        least = min(self.settings.presence, float(probability.max()))
        return [int(number) for number in torch.nonzero(probability >= least)[:, 0]]

    def _masks(
        self, image: EncodedImage, queries: QueryTexts, asked: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """(B, c, h, w) latents of the masks of the classes asked for, some at a time."""
        settings, schedule = self.settings, self.frozen.schedule
        for numbers in chunked(asked, self._at_once):
            some = queries[numbers]
            images = image.latents.expand(len(some), -1, -1, -1)
            if self._recipe == "one-step":
                last = last_step(schedule)
                yield one_step(self.network, images, some.states, some.embeddings, last).float()
            else:
                yield denoised(
                    self.network,
                    schedule,
                    images,
                    some.states,
                    some.embeddings,
                    steps=settings.steps,
                    seeds=range(settings.seed, settings.seed + settings.ensemble),
                ).float()


def most_present(read: torch.Tensor, most: int) -> list[int]:
    """The numbers, ascending, of the `most` masks that are best on the most cells; of all for 0.

    read: (C, h, w). Masks that are best nowhere follow by their largest value.
    """
    if not most or len(read) <= most:
        return list(range(len(read)))
    cells = read.argmax(0).flatten().bincount(minlength=len(read))
    peaks = read.flatten(1).amax(1)
    order = sorted(range(len(read)), key=lambda n: (-int(cells[n]), -float(peaks[n])))
    return sorted(order[:most])
