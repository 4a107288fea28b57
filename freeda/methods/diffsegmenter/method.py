"""DiffSegmenter (Wang et al., arXiv 2309.02773): the attention of one denoising step segments.

The picture's latent is noised once; for every class the UNet sees it under a prompt that names the
class. Where the class's token is attended says where it is; self-attention completes the map to
whole objects. No index, no dense backbone, nothing trained.

Shapes: `C` classes, `h w` the grid of self-attention, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from freeda.models.attention import Grid, NounMaps, capture_cross_attention, capture_self_attention
from freeda.presets.settings import Preset
from freeda.segmentation.decision import decide
from freeda.models.diffusion import load_pipeline, noise_latents, pipeline_fingerprint, token_encoder
from freeda.errors import ClassNamesError, ConfigError
from freeda.segmentation.images import ImageLike, OnError, map_ahead, read_image, reading_pool, require_aspect
from freeda.index.reader import PrototypeIndex
from freeda.models.loading import choose_device, chosen_precision, usual_precision
from freeda.presets import load_preset
from freeda.class_names import ClassName
from freeda.records import NounSpan
from freeda.segmentation.result import Segmentation
from freeda.models.clip import ClipModel, load_clip
from freeda.models.tokens import noun_token_positions
from freeda.class_names import parse_class_names
from freeda.models.clip import embed_images

__all__ = ["Config", "DiffSegmenter", "Vocabulary", "complete", "load", "weighted_attention"]

Classes = str | Sequence[str] | Sequence[ClassName]
_RATIO_WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
"""Weight of a cross-attention grid by how many times the latent's side is its own. For Stable
Diffusion 1.5 at 512 pixels these are the paper's 8, 16, 32 and 64."""
_MAX_TOKENS = 64 * 64
_FLAT = 1e-5


@dataclass(frozen=True, kw_only=True)
class Config:
    """The method's numbers, by default the released code's.

    height, width: the picture is squashed to them; timestep: how far it is noised; boost: factor on
    the embeddings of the class's tokens; background: the constant score of the background; presence:
    least softmax probability, by CLIP over all classes, of a class that is looked for (the released
    code reads such lists from files; the filter is ours); batch: classes in one UNet pass.
    """

    height: int
    width: int
    timestep: int = 100
    prompt: str = "a photograph of a {}"
    boost: float = 1.1**2
    background: float = 0.45
    presence: float = 0.02
    batch: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    prompts: (C, T, D) text states, the class's tokens boosted; positions: each class's last token;
    texts: (C, K) unit CLIP embeddings.
    """

    classes: tuple[ClassName, ...]
    prompts: torch.Tensor
    positions: tuple[int, ...]
    texts: torch.Tensor


class DiffSegmenter:
    """Segments images into any classes with a Stable Diffusion alone, and CLIP to leave classes out."""

    explains = False

    def __init__(
        self,
        pipeline: Any,
        clip: ClipModel,
        templates: Sequence[str],
        config: Config,
        *,
        background: bool = False,
    ) -> None:
        self.config = config
        self.background = background
        self._pipeline = pipeline
        self._clip = clip
        self._templates = tuple(templates)
        self._vocabulary: Vocabulary | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a result depends on, besides image and classes, as plain data."""
        return {
            "diffusion": pipeline_fingerprint(self._pipeline),
            "clip": self._clip.fingerprint(),
            "templates": self._templates,
            "with_background": self.background,
            **asdict(self.config),
        }

    def set_classes(self, classes: Classes) -> Vocabulary:
        """Chooses the classes of the images to come: "cat,kitten; dog", or a list of such entries."""
        self._vocabulary = self.encode_classes(classes)
        return self._vocabulary

    @torch.inference_mode()
    def encode_classes(self, classes: Classes) -> Vocabulary:
        """Embeds a prompt for every class (its first name) and its names for the presence filter."""
        parsed = parse_class_names(classes, background=self.background)
        prompts = [self.config.prompt.format(item.name) for item in parsed]
        spans = [self._span(prompt, item.name) for prompt, item in zip(prompts, parsed, strict=True)]
        device = self._pipeline.device
        states, _ = self._pipeline.encode_prompt(prompts, device, 1, False)
        for state, span in zip(states, spans, strict=True):
            state[list(span)] *= self.config.boost
        texts = self._clip.embed_classes(parsed, self._templates)
        return Vocabulary(
            parsed, states, tuple(span[-1] for span in spans), torch.from_numpy(texts).to(device)
        )

    def _span(self, prompt: str, name: str) -> tuple[int, ...]:
        start = self.config.prompt.index("{}")
        span = NounSpan(noun=name, start=start, end=start + len(name))
        limit = self._pipeline.tokenizer.model_max_length
        found = noun_token_positions(token_encoder(self._pipeline), prompt, span, limit)
        if found is None:
            raise ClassNamesError(
                f"class name '{name}' does not fit a prompt of {limit} tokens; shorten or simplify it"
            )
        return found

    @overload
    def segment(self, image: ImageLike, classes: Classes | None = None) -> Segmentation: ...
    @overload
    def segment(self, image: list[ImageLike], classes: Classes | None = None) -> list[Segmentation]: ...
    def segment(
        self, image: ImageLike | list[ImageLike], classes: Classes | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segments an image, or each of a list, into `classes` or those given to `set_classes`."""
        vocabulary = self._vocabulary if classes is None else self.encode_classes(classes)
        if isinstance(image, list):
            return list(self.stream(image, vocabulary))
        return next(self.stream([image], vocabulary))

    def stream(
        self,
        images: Iterable[ImageLike],
        vocabulary: Vocabulary | None = None,
        *,
        on_error: OnError | None = None,
    ) -> Iterator[Segmentation]:
        """Segments any number of images, in order, read a little ahead.

        An image that cannot be read goes to `on_error` and gives no result; without `on_error` its
        error is raised.
        """
        chosen = vocabulary or self._vocabulary
        if chosen is None:
            raise ClassNamesError('no classes chosen; call set_classes(["cat", "dog"]) first')
        with reading_pool(1) as pool:
            for pixels in map_ahead(pool, _read, images, on_error, ahead=2):
                yield self._segment_pixels(pixels, chosen)

    def _segment_pixels(self, pixels: np.ndarray, vocabulary: Vocabulary) -> Segmentation:
        scores, present = self.score_image(pixels, vocabulary)
        return decide(
            pixels,
            scores,
            [item.name for item in vocabulary.classes],
            background=self.config.background if self.background else None,
            paths={
                "classes looked for": len(present),
                "classes left out": len(vocabulary.classes) - len(present),
            },
        )

    @torch.inference_mode()
    def score_image(self, pixels: np.ndarray, vocabulary: Vocabulary) -> tuple[torch.Tensor, list[int]]:
        """(C, H, W) scores in [0, 1] at the working size, -1 for classes left out by CLIP,
        and the numbers of the classes looked for.
        """
        image = self._working_image(pixels)
        present = self.present_classes(image, vocabulary)
        noisy = noise_latents(self._pipeline, image, timestep=self.config.timestep, seed=self.config.seed)
        size = (self.config.height, self.config.width)
        scores = torch.full((len(vocabulary.classes), *size), -1.0)
        for start in range(0, len(present), self.config.batch):
            chosen = present[start : start + self.config.batch]
            maps = self._complete_maps(noisy, vocabulary, chosen)
            enlarged = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
            scores[chosen] = _normalised(enlarged[:, 0]).cpu()
        return scores, present

    def present_classes(self, image: torch.Tensor, vocabulary: Vocabulary) -> list[int]:
        """The classes that CLIP deems possible in a (1, 3, H, W) image; never none."""
        similarity = vocabulary.texts @ embed_images(self._clip, image)[0]
        probability = (self._clip.network.logit_scale.exp().float() * similarity).softmax(0)
        kept = (probability >= min(self.config.presence, float(probability.max()))).nonzero()[:, 0]
        return [int(number) for number in kept]

    def _complete_maps(self, noisy: torch.Tensor, vocabulary: Vocabulary, chosen: list[int]) -> torch.Tensor:
        """(len(chosen), h, w): weighted cross-attention of each class's token, completed."""
        unet, count = self._pipeline.unet, len(chosen)
        latent_size = (noisy.shape[-2], noisy.shape[-1])
        grid = self_attention_grid(unet, latent_size)
        positions = [[[vocabulary.positions[number]]] for number in chosen]
        steps = torch.full((count,), self.config.timestep, device=noisy.device)
        with (
            capture_cross_attention(unet, positions) as cross,
            capture_self_attention(unet, grid, count) as attention,
        ):
            unet(noisy.expand(count, -1, -1, -1), steps, vocabulary.prompts[chosen])
        return complete(weighted_attention(cross, latent_size, grid), attention.mean())

    def _working_image(self, pixels: np.ndarray) -> torch.Tensor:
        """(1, 3, height, width) float32 in [0, 1], squashed."""
        resized = Image.fromarray(pixels).resize(
            (self.config.width, self.config.height), Image.Resampling.BICUBIC
        )
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
        return image.to(self._pipeline.device)


def weighted_attention(cross: NounMaps, latent_size: Grid, grid: Grid) -> torch.Tensor:
    """(C, h, w) in [0, 1]: each image's first noun map, min-max normalised grid by grid and averaged
    with weights by how coarse a grid is.
    """
    total, weights = torch.zeros(len(cross.sums), *grid), 0.0
    for found, calls in cross.layers.items():
        ratio = min(_RATIO_WEIGHTS, key=lambda known: abs(np.log2(known * found[0] / latent_size[0])))
        maps = torch.stack([sums[found][0] for sums in cross.sums]) / calls
        enlarged = functional.interpolate(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
        total = total.to(enlarged.device) + _RATIO_WEIGHTS[ratio] * _normalised(enlarged)
        weights += _RATIO_WEIGHTS[ratio]
    return total / weights


def complete(maps: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """(C, h, w): every position takes the (C, h, w) map's mean over where its (C, h * w, h * w)
    self-attention goes.
    """
    flat = attention @ maps.flatten(1)[..., None]
    return flat[..., 0].reshape(maps.shape)


def self_attention_grid(unet: Any, latent_size: Grid) -> Grid:
    """The finest grid on which the UNet attends to itself, of at most 64 x 64 positions."""
    grid, usable = latent_size, []
    for name in unet.config.down_block_types:
        if "Attn" in name:
            usable.append(grid)
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    fitting = [found for found in usable if found[0] * found[1] <= _MAX_TOKENS]
    if not fitting:
        raise ConfigError(
            f"the UNet attends on no grid of at most {_MAX_TOKENS} positions; use smaller pictures"
        )
    return fitting[0]


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each (h, w) map stretched to [0, 1]; a flat one, but for rounding, becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    flat = high - low <= _FLAT * high.abs()
    return torch.where(flat, 0.0, (maps - low) / (high - low).clamp(min=1e-12))


def _read(image: ImageLike) -> np.ndarray:
    pixels = read_image(image)
    require_aspect(pixels)
    return pixels


def load(
    index: str | Path = "toy",
    *,
    preset: str | Preset | None = None,
    recipe: str = "default",
    device: str = "auto",
    background: bool = False,
    background_concepts: str | Sequence[str] | None = None,
    neighbors: int | None = None,
) -> DiffSegmenter:
    """Loads the models of a preset, or of the one that an index was built with."""
    if neighbors is not None or background_concepts is not None or recipe != "default":
        raise ConfigError(
            "neighbors, background concepts and recipe belong to method freeda; diffsegmenter retrieves "
            "nothing"
        )
    if preset is None:
        preset = PrototypeIndex.open(index).preset
    chosen = load_preset(preset) if isinstance(preset, str) else preset
    place = choose_device(device)
    return DiffSegmenter(
        load_pipeline(chosen.models.diffusion, place, chosen_precision(chosen.synthesis.precision, place)),
        load_clip(chosen.models.clip, place, usual_precision(place)),
        chosen.segmentation.templates,
        Config(height=chosen.synthesis.height, width=chosen.synthesis.width),
        background=background,
    )
