"""DiffSegmenter's algorithm: the attention of one denoising step is a segmentation.

The image's latent is noised once; per class, the UNet sees it under a prompt that names the class. Where the
class's token is attended to says where it is; self-attention completes the map to whole objects.

Shapes: `C` classes, `h w` the grid of self-attention, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from freeda.class_names import ClassName
from freeda.errors import ClassNamesError
from freeda.methods.base import Scores
from freeda.methods.diffsegmenter.maps import (
    complete,
    normalised,
    self_attention_grid,
    weighted_attention,
)
from freeda.methods.diffsegmenter.settings import DiffSegmenterSettings
from freeda.models.attention import capture_cross_attention, capture_self_attention
from freeda.models.clip import ClipModel
from freeda.models.diffusion import noise_latents, pipeline_fingerprint, token_encoder
from freeda.models.tokens import noun_token_positions
from freeda.records import NounSpan

__all__ = ["ClassPrompts", "DiffSegmenterMethod"]


@dataclass(frozen=True)
class ClassPrompts:
    """Classes with what is computed of them once.

    prompts: (C, T, D) text states, the class's tokens boosted.
    positions: of each class's last token.
    texts: (C, K) unit CLIP embeddings.
    """

    classes: tuple[ClassName, ...]
    prompts: torch.Tensor
    positions: tuple[int, ...]
    texts: torch.Tensor


class DiffSegmenterMethod:
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
            "templates": self._templates,
            "with_background": self._with_background,
            **asdict(self.settings),
        }

    @property
    def background(self) -> float | None:
        return self.settings.background if self._with_background else None

    @torch.inference_mode()
    def encode_classes(self, classes: tuple[ClassName, ...]) -> ClassPrompts:
        """Embeds a prompt per class (its first name), and its names for the presence filter.

        Raises `ClassNamesError` for a name that does not fit a prompt.
        """
        prompts = [self.settings.prompt.format(item.name) for item in classes]
        spans = [self._span(prompt, item.name) for prompt, item in zip(prompts, classes, strict=True)]
        device = self.pipeline.device
        states, _ = self.pipeline.encode_prompt(prompts, device, 1, False)
        for state, span in zip(states, spans, strict=True):
            state[list(span)] *= self.settings.boost
        texts = torch.from_numpy(self.clip.embed_classes(classes, self._templates)).to(device)
        return ClassPrompts(classes, states, tuple(span[-1] for span in spans), texts)

    def _span(self, prompt: str, name: str) -> tuple[int, ...]:
        start = self.settings.prompt.index("{}")
        span = NounSpan(noun=name, start=start, end=start + len(name))
        limit = self.pipeline.tokenizer.model_max_length
        found = noun_token_positions(token_encoder(self.pipeline), prompt, span, limit)
        if found is None:
            raise ClassNamesError(
                f"class name '{name}' does not fit a prompt of {limit} tokens; shorten or simplify it"
            )
        return found

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def score(self, images: Sequence[np.ndarray], classes: ClassPrompts) -> list[Scores]:
        return [self._score(pixels, classes) for pixels in images]

    def _score(self, pixels: np.ndarray, classes: ClassPrompts) -> Scores:
        scores, present = self.score_image(pixels, classes)
        left_out = len(classes.classes) - len(present)
        return Scores(scores, {"classes looked for": len(present), "classes left out": left_out})

    @torch.inference_mode()
    def score_image(self, pixels: np.ndarray, classes: ClassPrompts) -> tuple[torch.Tensor, list[int]]:
        """(C, H, W) scores in [0, 1] at the working size, -1 for classes left out by CLIP,
        and the numbers of the classes looked for.
        """
        image = self._working_image(pixels)
        present = self.present_classes(image, classes)
        noisy = noise_latents(self.pipeline, image, timestep=self.settings.timestep, seed=self.settings.seed)
        size = (self.settings.height, self.settings.width)
        scores = torch.full((len(classes.classes), *size), -1.0)
        for start in range(0, len(present), self.settings.batch):
            chosen = present[start : start + self.settings.batch]
            maps = self._complete_maps(noisy, classes, chosen)
            enlarged = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
            scores[chosen] = normalised(enlarged[:, 0]).cpu()
        return scores, present

    def present_classes(self, image: torch.Tensor, classes: ClassPrompts) -> list[int]:
        """The classes that CLIP deems possible in a (1, 3, H, W) image; never none."""
        similarity = classes.texts @ self.clip.embed_images(image)[0]
        probability = (self.clip.network.logit_scale.exp().float() * similarity).softmax(0)
        kept = (probability >= min(self.settings.presence, float(probability.max()))).nonzero()[:, 0]
        return [int(number) for number in kept]

    def _complete_maps(self, noisy: torch.Tensor, classes: ClassPrompts, chosen: list[int]) -> torch.Tensor:
        """(len(chosen), h, w): weighted cross-attention of each class's token, completed."""
        unet, count = self.pipeline.unet, len(chosen)
        latent_size = (noisy.shape[-2], noisy.shape[-1])
        grid = self_attention_grid(unet, latent_size)
        positions = [[[classes.positions[number]]] for number in chosen]
        steps = torch.full((count,), self.settings.timestep, device=noisy.device)
        with (
            capture_cross_attention(unet, positions) as cross,
            capture_self_attention(unet, grid, count) as attention,
        ):
            unet(noisy.expand(count, -1, -1, -1), steps, classes.prompts[chosen])
        return complete(weighted_attention(cross, latent_size, grid), attention.mean())

    def _working_image(self, pixels: np.ndarray) -> torch.Tensor:
        """(1, 3, height, width) float32 in [0, 1], squashed."""
        resized = Image.fromarray(pixels).resize(
            (self.settings.width, self.settings.height), Image.Resampling.BICUBIC
        )
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
        return image.to(self.pipeline.device)
