"""DiffSegmenter's algorithm: the attention of one denoising step is a segmentation.

The image's latent is noised once; per class, the UNet sees it under a prompt that names the class. Where the
class's token is attended to says where it is; self-attention completes the map to whole objects.

Shapes: `C` classes, `h w` the grid of self-attention, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from freeda.class_names import ClassName, shortened
from freeda.errors import ClassNamesError
from freeda.methods.base import BackgroundSwitch, Scores
from freeda.methods.diffsegmenter.maps import weighted_attention
from freeda.methods.diffsegmenter.settings import DiffSegmenterSettings
from freeda.models.attention import capture_cross_attention, capture_self_attention
from freeda.models.clip import ClipModel
from freeda.models.completion import complete, normalised, self_attention_grid
from freeda.models.diffusion import noise_latents, pipeline_fingerprint
from freeda.models.prompts import encode_prompts, token_encoder, token_limit
from freeda.models.tokens import noun_token_positions
from freeda.records import NounSpan

__all__ = ["ClassPrompts", "DiffSegmenterMethod", "EncodedImage", "Prompts"]

Span = tuple[int, ...]
"""Positions of a name's tokens."""
_AND = ", a "
"""Between the names of one prompt."""
_MOST_POSITIONS = 64 * 64
"""Of the self-attention that completes maps."""


@dataclass(frozen=True)
class Prompts:
    """Some prompts, each about one class or several.

    states: (P, T, D) text states, the classes' tokens boosted.
    positions: per prompt, of the last token of each of its classes.
    """

    states: torch.Tensor
    positions: tuple[tuple[int, ...], ...]

    def __getitem__(self, chosen: Sequence[int] | slice) -> Prompts:
        numbers = range(len(self.positions))[chosen] if isinstance(chosen, slice) else chosen
        return Prompts(self.states[list(numbers)], tuple(self.positions[number] for number in numbers))


@dataclass(frozen=True)
class ClassPrompts:
    """Classes with what is computed of them once.

    prompts: one per class.
    texts: (C, K) unit CLIP embeddings.
    """

    classes: tuple[ClassName, ...]
    prompts: Prompts
    texts: torch.Tensor


@dataclass(frozen=True)
class EncodedImage:
    """What is computed of an image once.

    noisy: (1, 4, h, w) its latent, noised to the settings' timestep.
    embedding: (K,) of the whole image by CLIP, of unit length.
    """

    noisy: torch.Tensor
    embedding: torch.Tensor

    @property
    def nbytes(self) -> int:
        return int(self.noisy.nbytes + self.embedding.nbytes)


class DiffSegmenterMethod(BackgroundSwitch):
    """Scores images with a Stable Diffusion, and CLIP to leave classes out.

    pipeline: a diffusers pipeline with a UNet.
    templates: prompts for CLIP.
    background: whether pixels of none of the classes are labelled as background.
    """

    batch = 1

    def __init__(
        self,
        pipeline: Any,
        clip: ClipModel,
        templates: Sequence[str],
        settings: DiffSegmenterSettings,
        *,
        background: bool = False,
    ) -> None:
        self.pipeline, self.clip = pipeline, clip
        self.settings = settings
        self._templates = tuple(templates)
        self._with_background = background

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "method": "diffsegmenter",
            "diffusion": pipeline_fingerprint(self.pipeline),
            "clip": self.clip.fingerprint(),
            "precision": str(self.pipeline.unet.dtype).removeprefix("torch."),
            "templates": self._templates,
            "with_background": self._with_background,
            **{name: value for name, value in asdict(self.settings).items() if name != "batch"},
        }

    @property
    def image_settings(self) -> Hashable:
        return self.settings.height, self.settings.width, self.settings.timestep, self.settings.seed

    @property
    def native_side(self) -> int:
        return min(self.settings.height, self.settings.width)

    @torch.inference_mode()
    def encode_classes(self, classes: tuple[ClassName, ...]) -> ClassPrompts:
        """Embeds a prompt per class (its first name), and its names for the presence filter.

        Raises `ClassNamesError` for a name that does not fit a prompt.
        """
        groups = [self._tokens([item.name]) for item in classes]
        for item, tokens in zip(classes, groups, strict=True):
            if tokens is None:
                raise ClassNamesError(
                    f"class name '{shortened(item.name)}' does not fit a prompt of "
                    f"{token_limit(self.pipeline)} tokens; shorten or simplify it"
                )
        texts = torch.from_numpy(self.clip.embed_classes(classes, self._templates)).to(self.pipeline.device)
        found = [tokens for tokens in groups if tokens is not None]
        return ClassPrompts(classes, self._embedded([[item.name] for item in classes], found), texts)

    @torch.inference_mode()
    def _embedded(self, groups: Sequence[Sequence[str]], tokens: Sequence[Sequence[Span]]) -> Prompts:
        """A prompt per group of names, their tokens boosted as by "++" of prompt weighting."""
        states = encode_prompts(self.pipeline, [self._prompt(names) for names in groups])
        empty = encode_prompts(self.pipeline, [""])
        for number, spans in enumerate(tokens):
            for places in map(list, spans):
                base = empty[0, places]
                states[number, places] = base + self.settings.boost * (states[number, places] - base)
        return Prompts(states, tuple(tuple(places[-1] for places in spans) for spans in tokens))

    def _prompt(self, names: Sequence[str]) -> str:
        return self.settings.prompt.format(_AND.join(names))

    def _tokens(self, names: Sequence[str]) -> list[Span] | None:
        """The tokens of each name in their prompt; None where they do not fit."""
        prompt, start, spans = self._prompt(names), self.settings.prompt.index("{}"), []
        encode, limit = token_encoder(self.pipeline), token_limit(self.pipeline)
        for name in names:
            found = noun_token_positions(
                encode, prompt, NounSpan(noun=name, start=start, end=start + len(name)), limit
            )
            if found is None:
                return None
            spans.append(found)
            start += len(name) + len(_AND)
        return spans

    def _joint(self, names: Sequence[str]) -> Prompts:
        """Prompts that name as many of the classes as fit, in order."""
        groups: list[list[str]] = []
        for name in names:
            if groups and self._tokens([*groups[-1], name]) is not None:
                groups[-1].append(name)
            else:
                groups.append([name])
        return self._embedded(groups, [self._tokens(group) or [] for group in groups])

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    @torch.inference_mode()
    def encode_images(self, images: Sequence[np.ndarray]) -> list[EncodedImage]:
        return [self._encode(self._working_image(pixels)) for pixels in images]

    def _encode(self, image: torch.Tensor) -> EncodedImage:
        noisy = noise_latents(self.pipeline, image, timestep=self.settings.timestep, seed=self.settings.seed)
        return EncodedImage(noisy, self.clip.embed_images(image)[0])

    def score(self, images: Sequence[EncodedImage], classes: ClassPrompts) -> list[Scores]:
        return [self._score(image, classes) for image in images]

    def _score(self, image: EncodedImage, classes: ClassPrompts) -> Scores:
        scores, present = self.score_encoded(image, classes)
        left_out = len(classes.classes) - len(present)
        return Scores(scores, {"classes looked for": len(present), "classes left out": left_out})

    def score_image(self, pixels: np.ndarray, classes: ClassPrompts) -> tuple[torch.Tensor, list[int]]:
        """`score_encoded` of an (H, W, 3) uint8 image."""
        (image,) = self.encode_images([pixels])
        return self.score_encoded(image, classes)

    @torch.inference_mode()
    def score_encoded(self, image: EncodedImage, classes: ClassPrompts) -> tuple[torch.Tensor, list[int]]:
        """(C, H, W) scores in [0, 1] at the working size, -1 for classes left out by CLIP,
        and the numbers of the classes looked for.
        """
        probability = self.presence(image.embedding, classes)
        present = self._present(probability)
        size = (self.settings.height, self.settings.width)
        scores = torch.full((len(classes.classes), *size), -1.0)
        first = 0
        for prompts in self._batches(classes, present):
            maps = self._complete_maps(image.noisy, prompts)
            enlarged = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
            chosen = present[first : first + len(maps)]
            weights = probability[chosen, None, None] ** self.settings.presence_power
            scores[chosen] = (weights * normalised(enlarged[:, 0])).cpu()
            first += len(maps)
        return scores, present

    def _batches(self, classes: ClassPrompts, present: list[int]) -> Iterator[Prompts]:
        """Prompts about the classes present, in their order."""
        if self.settings.prompts == "joint":
            chosen = self._joint([classes.classes[number].name for number in present])
        else:
            chosen = classes.prompts[present]
        for start in range(0, len(chosen.positions), self.settings.batch):
            yield chosen[slice(start, start + self.settings.batch)]

    def presence(self, embedding: torch.Tensor, classes: ClassPrompts) -> torch.Tensor:
        """(C,) how probable CLIP deems each class in an image of (K,) embedding; they sum to 1."""
        return self.clip.probabilities(embedding, classes.texts)

    def _present(self, probability: torch.Tensor) -> list[int]:
        """The classes that CLIP deems possible; never none."""
        kept = (probability >= min(self.settings.presence, float(probability.max()))).nonzero()[:, 0]
        return [int(number) for number in kept]

    def _complete_maps(self, noisy: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """(classes, h, w): weighted cross-attention of each class's token, completed."""
        unet, count = self.pipeline.unet, len(prompts.positions)
        grid = self_attention_grid(unet, (noisy.shape[-2], noisy.shape[-1]), _MOST_POSITIONS)
        positions = [[(place,) for place in places] for places in prompts.positions]
        steps = torch.full((count,), self.settings.timestep, device=noisy.device)
        with (
            capture_cross_attention(unet, positions) as cross,
            capture_self_attention(unet, grid, count) as attention,
        ):
            unet(noisy.expand(count, -1, -1, -1), steps, prompts.states)
        repeats = torch.tensor(cross.counts, device=noisy.device)
        own = attention.mean()
        if max(cross.counts) > 1:
            own = own.repeat_interleave(repeats, 0)
        return complete(weighted_attention(cross, self.settings.grid_weights, grid), own)

    def _working_image(self, pixels: np.ndarray) -> torch.Tensor:
        """(1, 3, height, width) float32 in [0, 1], squashed."""
        resized = Image.fromarray(pixels).resize(
            (self.settings.width, self.settings.height), Image.Resampling.BICUBIC
        )
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
        return image.to(self.pipeline.device)
