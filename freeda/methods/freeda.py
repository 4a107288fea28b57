"""FreeDA's online stage (Barsellotti et al., CVPR 2024, section 3.2): retrieve, pool, compare, fuse.

Shapes: `C` classes, `K` width of a key, `D` width of a dense feature, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image

from freeda.errors import ClassNamesError, ImageError
from freeda.images import ImageLike, read_image
from freeda.index import PrototypeIndex
from freeda.loading import choose_device
from freeda.presets import Preset, load_preset
from freeda.presets import Segmentation as Config
from freeda.records import ClassName, Regions
from freeda.regions import pool_regions, superpixels
from freeda.scoring import (
    add_background,
    fuse_scores,
    label_map,
    local_scores,
    paint_regions,
    window_origins,
)
from freeda.segmentation import BACKGROUND, Segmentation, ignore_index_for
from freeda.text import ClipModel, load_clip, parse_classes
from freeda.vision import Backbone, embed_images, load_backbone

__all__ = ["FreedaSegmenter", "Vocabulary", "load"]

_MAX_ASPECT = 32
Classes = str | Sequence[str] | Sequence[ClassName]
FindRegions = Callable[[np.ndarray, Config], Regions]


@dataclass(frozen=True)
class Vocabulary:
    """Classes with what is computed of them once.

    texts: (C, K) unit text embeddings; prototypes: (C, D) unit class prototypes.
    """

    classes: tuple[ClassName, ...]
    texts: torch.Tensor
    prototypes: torch.Tensor


def find_superpixels(image: np.ndarray, config: Config) -> Regions:
    """The method's own regions: superpixels of an (H, W, 3) float32 window in [0, 1]."""
    return superpixels(image, config.superpixels)


class FreedaSegmenter:
    """Segments images into any classes by retrieval from a prototype index.

    The parts are passed in, so that each can be replaced; `freeda.load` puts the usual ones together.
    """

    def __init__(
        self,
        index: PrototypeIndex,
        clip: ClipModel,
        backbone: Backbone,
        config: Config,
        *,
        background: bool = False,
        find_regions: FindRegions = find_superpixels,
    ) -> None:
        index.require_models(clip=clip.fingerprint(), backbone=backbone.fingerprint())
        self.index = index
        self.config = config
        self.background = background
        self._clip = clip
        self._backbone = backbone
        self._find_regions = find_regions
        self._vocabulary: Vocabulary | None = None

    def set_classes(self, classes: Classes) -> Vocabulary:
        """Chooses the classes of the images to come: "cat,kitten; dog", or a list of such entries."""
        self._vocabulary = self.encode_classes(classes)
        return self._vocabulary

    def encode_classes(self, classes: Classes) -> Vocabulary:
        """Embeds the class names and retrieves their prototypes."""
        parsed = _parse(classes)
        if self.background and any(item.name.casefold() == BACKGROUND for item in parsed):
            raise ClassNamesError(
                "class 'background' is named while the background channel is on; drop one of the two"
            )
        texts = self._clip.embed_classes(parsed, self.config.templates)
        found = self.index.class_prototypes(texts, self.config.neighbors)
        device = self._backbone.device
        return Vocabulary(
            parsed,
            torch.from_numpy(texts).to(device),
            torch.from_numpy(found.vectors.astype(np.float32)).to(device),
        )

    @overload
    def segment(self, image: ImageLike, classes: Classes | None = None) -> Segmentation: ...
    @overload
    def segment(self, image: list[ImageLike], classes: Classes | None = None) -> list[Segmentation]: ...
    def segment(
        self, image: ImageLike | list[ImageLike], classes: Classes | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segments an image, or each of a list, into `classes` or those given to `set_classes`."""
        vocabulary = self._vocabulary if classes is None else self.encode_classes(classes)
        if vocabulary is None:
            raise ClassNamesError('no classes chosen; call set_classes(["cat", "dog"]) first')
        if isinstance(image, list):
            return [self._segment_one(item, vocabulary) for item in image]
        return self._segment_one(image, vocabulary)

    def _segment_one(self, image: ImageLike, vocabulary: Vocabulary) -> Segmentation:
        pixels = read_image(image)
        scores = self.score_image(pixels, vocabulary)
        names = tuple(item.name for item in vocabulary.classes)
        if self.background:
            scores = add_background(scores, self.config.background)
            names = (BACKGROUND, *names)
        ignore_index = ignore_index_for(len(names))
        labels, best = label_map(scores, (pixels.shape[0], pixels.shape[1]), ignore_index)
        return Segmentation(pixels, labels, best, names, ignore_index)

    def score_image(self, pixels: np.ndarray, vocabulary: Vocabulary) -> torch.Tensor:
        """(C, h, w) scores of an (H, W, 3) uint8 image at the working size: windows averaged."""
        image = _resize_short_side(pixels, self.config.short_side)
        height, width = image.shape[-2:]
        window = self.config.window
        scores = image.new_zeros(len(vocabulary.classes), height, width)
        visits = image.new_zeros(height, width)
        for top in window_origins(height, window, self.config.stride):
            for left in window_origins(width, window, self.config.stride):
                area = (..., slice(top, top + window), slice(left, left + window))
                scores[area] += self.score_window(image[area], vocabulary).cpu()
                visits[area] += 1
        return scores / visits

    def score_window(self, window: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        """(C, H, W) scores of one (3, H, W) float32 window in [0, 1]."""
        regions = self._find_regions(window.permute(1, 2, 0).numpy(), self.config)
        features = self._backbone.dense_features(window[None], self.config.dense_size)[0]
        local = local_scores(pool_regions(features, regions.labels), vocabulary.prototypes)
        similarity = vocabulary.texts @ embed_images(self._clip, window[None])[0]
        return paint_regions(fuse_scores(local, similarity, self.config.local_weight), regions.labels)


def load(
    index: str | Path = "toy",
    *,
    preset: str | Preset | None = None,
    device: str = "auto",
    background: bool = False,
    neighbors: int | None = None,
) -> FreedaSegmenter:
    """Opens an index and the models it was built with; `preset` overrides where they are taken from."""
    opened = PrototypeIndex.open(index)
    chosen = _choose_preset(opened, preset)
    place = choose_device(device)
    dtype = torch.float16 if place.type == "cuda" else torch.float32
    config = chosen.segmentation
    if neighbors is not None:
        config = replace(config, neighbors=neighbors)
    return FreedaSegmenter(
        opened,
        load_clip(chosen.models.clip, place, dtype),
        load_backbone(chosen.models.backbone, place, dtype),
        config,
        background=background,
    )


def _choose_preset(index: PrototypeIndex, preset: str | Preset | None) -> Preset:
    if preset is None:
        return index.preset
    return load_preset(preset) if isinstance(preset, str) else preset


def _parse(classes: Classes) -> tuple[ClassName, ...]:
    if not isinstance(classes, str) and all(isinstance(item, ClassName) for item in classes):
        classes = [",".join(item.names) for item in classes if isinstance(item, ClassName)]
    return parse_classes(classes)  # type: ignore[arg-type]


def _resize_short_side(pixels: np.ndarray, short_side: int) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1] with its shorter side at `short_side`, the aspect kept."""
    height, width = pixels.shape[:2]
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ImageError(
            f"image of {width} x {height} pixels; its sides may differ by {_MAX_ASPECT} times at most; "
            f"crop it"
        )
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels)
    resized = picture if size == picture.size else picture.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
