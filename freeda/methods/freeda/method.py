"""FreeDA's online stage (section 3.2 of the paper): retrieve, pool, compare, fuse.

Shapes: `C` classes, `R` regions, `K` width of a key, `D` width of a dense feature, `H W` pixels, `h w`
    tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.index.noun_keys import NounKeys, frequent_nouns
from freeda.index.reader import PrototypeIndex
from freeda.methods.base import BackgroundSwitch, Scores
from freeda.methods.freeda.compactness import compactness
from freeda.methods.freeda.concepts import Concepts, other_nouns, unnamed
from freeda.methods.freeda.own_weighting import spread_with_photographs, with_photographs
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.methods.freeda.whitening import Whitening
from freeda.methods.freeda.windows import EncodedImage, EncodedWindow, ScoredWindow
from freeda.models.backbone import Backbone
from freeda.models.clip import ClipModel
from freeda.presets.settings import FROM_INDEX, FreedaSettings
from freeda.records import GENERATED, ClassPrototypes, Prototype, Regions
from freeda.segmentation.cells import CellScores, WindowParts
from freeda.segmentation.merging import merge_alike
from freeda.segmentation.reassigning import mean_colors, reassign
from freeda.segmentation.refinement import contenders, refined
from freeda.segmentation.regions import pool_regions, region_weights, superpixels
from freeda.segmentation.score_maps import ScoreMaps
from freeda.segmentation.scoring import local_scores
from freeda.segmentation.windows import WindowedImage, same_sized

__all__ = ["FindRegions", "FreedaMethod", "find_superpixels"]

_NATIVE_WINDOWS = 4
"""Windows along the side of an image that is taken as it is: more take more memory, fewer make more seams."""
_MOST_NOUNS = 500
"""The index's nouns that compete as background, the most frequent ones."""
_NOT_WHITENED = "regions compared by plain cosine, for no noun of the index has two prototypes"
FindRegions = Callable[[np.ndarray, FreedaSettings], Regions]


def find_superpixels(image: np.ndarray, settings: FreedaSettings) -> Regions:
    """The method's own regions: superpixels of an (H, W, 3) float32 window in [0, 1]."""
    return superpixels(image, settings.superpixels)


class FreedaMethod(BackgroundSwitch):
    """Scores images by retrieval from a prototype index.

    index, clip, backbone: the index must have been built with these models.
    settings: numbers of the online stage.
    background: whether pixels of none of the classes are labelled as background.
    find_regions: class-agnostic regions of a window.
    batch: windows that pass the models at once.
    native: whether images up to `native_side` are cut into windows as they are, instead of resized.
    Raises `IndexMismatchError` for other models.
    """

    def __init__(
        self,
        index: PrototypeIndex,
        clip: ClipModel,
        backbone: Backbone,
        settings: FreedaSettings,
        *,
        background: bool = False,
        find_regions: FindRegions = find_superpixels,
        batch: int = 8,
        native: bool = False,
    ) -> None:
        index.require_models(clip=clip.fingerprint(), backbone=backbone.fingerprint())
        self.index, self.clip, self.backbone = index, clip, backbone
        self.settings = settings
        self.batch = batch
        self.find_regions = find_regions
        self._with_background, self._native = background, native
        self._own: tuple[Prototype, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        source = self.index.source
        proposed = getattr(self.find_regions, "fingerprint", None)
        return {
            **({} if proposed is None else {"regions_model": proposed()}),
            **({} if source is None else {"fetched": f"{source.address} {source.version}"}),
            **({"own": [f"{item.id} {_digest(item.vector)}" for item in self._own]} if self._own else {}),
            "method": "freeda",
            "index": self.index.manifest.build_fingerprint,
            "prototypes": len(self.index),
            "precision": str(self.backbone.dtype).removeprefix("torch."),
            "with_background": self._with_background,
            **asdict(self.settings),
        }

    @property
    def own(self) -> tuple[Prototype, ...]:
        """Photographs beside those of the index."""
        return self._own

    def with_own(self, prototypes: Sequence[Prototype]) -> FreedaMethod:
        """The same with more photographs than the index holds; one that it has already counts once.

        Raises `ConfigError` where settings or index leave them without effect.
        """
        if self.settings.retrieval != "class" or not self.settings.own_weight:
            raise ConfigError(
                'own images need retrieval = "class" and an own_weight above 0; with these settings, they '
                "would change nothing"
            )
        if not self.index.source_counts().get(GENERATED):
            raise ConfigError(
                f"index '{self.index.folder.name}' holds photographs only, among which others cannot be "
                f"tried; add them with `freeda index add-images`"
            )
        other, held = copy(self), {item.id for item in self._own}
        other._own = (*self._own, *(item for item in prototypes if item.id not in held))
        return other

    @property
    def image_settings(self) -> Hashable:
        chosen = self.settings
        size = (chosen.short_side, chosen.window, chosen.stride, chosen.dense_size, chosen.resizing)
        merging = (chosen.pooling, chosen.merge_above, chosen.color_weight)
        return self.find_regions, chosen.superpixels, size, self._native, *merging

    @property
    def native_side(self) -> int:
        return _NATIVE_WINDOWS * self.settings.window if self._native else self.settings.short_side

    @property
    def background(self) -> float | None:
        if not self._with_background:
            return None
        return -math.inf if self.settings.background is None else self.settings.background

    def encode_classes(self, classes: tuple[ClassName, ...]) -> Vocabulary:
        """Embeds the names of classes and background concepts, and retrieves their prototypes."""
        chosen = self.settings
        named = classes if chosen.synonyms else tuple(ClassName(item.name) for item in classes)
        texts = self.clip.embed_classes(named, chosen.templates)
        concepts = self._concepts(classes, texts)
        texts = np.concatenate([texts, concepts.texts])
        retrieved = self._prototypes(texts)
        found = with_photographs(retrieved, self.index, classes, texts, chosen.own_weight, self._own)
        device = self.backbone.device
        prototypes = torch.from_numpy(found.vectors.astype(np.float32)).to(device)
        spread, whitening = None, None
        if chosen.metric == "whitened":
            spread = spread_with_photographs(self.index, chosen.own_weight, self._own)
        if spread is not None:
            whitening = Whitening.of(spread, chosen.shrinkage).to(device)
            prototypes = whitening(prototypes)
        texts_there = torch.from_numpy(texts).to(device)
        vocabulary = Vocabulary(classes, concepts.names, texts_there, prototypes, found, whitening)
        if not chosen.compactness_weight:
            return vocabulary
        usual = compactness(self.index, retrieved, lambda vectors: vocabulary.compared(vectors.to(device)))
        return replace(vocabulary, usual=chosen.compactness_weight * usual.to(device))

    def _prototypes(self, texts: np.ndarray) -> ClassPrototypes:
        return self.index.class_prototypes(
            texts, self.settings.neighbors, margin=self.settings.neighbor_margin
        )

    def _concepts(self, classes: tuple[ClassName, ...], texts: np.ndarray) -> Concepts:
        """What competes with classes of (C, K) texts as background."""
        chosen = self.settings.background_concepts
        if self._with_background and not chosen and self.settings.background is None:
            raise ConfigError(
                "neither concepts nor a score tell the background; name concepts (--background-concepts), "
                "or set a score that classes must exceed (--threshold)"
            )
        if not self._with_background or not chosen:
            return Concepts((), texts[:0])
        if chosen == FROM_INDEX:
            return other_nouns(self._nouns, classes, texts, self._prototypes(texts).rows)
        names = unnamed(chosen, classes)
        embedded = self.clip.embed_classes(names, self.settings.templates) if names else texts[:0]
        return Concepts(tuple(item.name for item in names), embedded)

    @cached_property
    def _nouns(self) -> NounKeys:
        return frequent_nouns(self.index, _MOST_NOUNS)

    def prepare(self, pixels: np.ndarray) -> WindowedImage:
        """Resizes the image, cuts it into windows and finds the regions of each."""
        chosen = self.settings
        return WindowedImage.cut(
            pixels,
            self._short_side(min(pixels.shape[:2])),
            chosen.window,
            chosen.stride,
            lambda window: self.find_regions(window, chosen),
            antialias=chosen.resizing == "antialiased",
        )

    def _short_side(self, own: int) -> int:
        """To which an image's shorter side is resized. own: that of the image, in pixels."""
        if not self._native:
            return self.settings.short_side
        return min(max(own, self.settings.window), self.native_side)

    def encode_images(self, images: Sequence[WindowedImage]) -> list[EncodedImage]:
        """The models' answers to every window. Windows of all images pass the models together."""
        windows: list[list[EncodedWindow]] = [[] for _ in images]
        for numbers in same_sized(images, self.batch):
            pixels = torch.stack([images[image].window(number) for image, number in numbers])
            plain = self.settings.resizing == "plain"
            features = self.backbone.dense_features(
                pixels, self.settings.dense_size, "bilinear" if plain else "antialiased"
            )
            embedded = self.clip.embed_images(pixels, "bicubic" if plain else "antialiased")
            for row, (image, number) in enumerate(numbers):
                regions = images[image].regions[number]
                regions = self._merge(features[row], regions, pixels[row])
                windows[image].append(self._encoded_window(regions, features[row], embedded[row]))
        return [EncodedImage(image, tuple(found)) for image, found in zip(images, windows, strict=True)]

    def _encoded_window(
        self, regions: Regions, features: torch.Tensor, embedding: torch.Tensor
    ) -> EncodedWindow:
        tokens, grid = features.flatten(1).T, (features.shape[-2], features.shape[-1])
        weights = region_weights(regions.labels, grid, self.settings.pooling).to(features.device)
        return EncodedWindow(
            regions=regions,
            tokens=tokens,
            grid=grid,
            features=weights @ tokens,
            vanished=weights.sum(1) == 0,
            embedding=embedding,
        )

    def score(self, images: Sequence[EncodedImage], classes: Vocabulary) -> list[Scores]:
        """Mean scores of overlapping windows, at the working size."""
        return [self._score(image, classes) for image in images]

    def _score(self, image: EncodedImage, classes: Vocabulary) -> Scores:
        parts, paths = [], Counter[str]()
        for area, window in zip(image.windowed.areas, self.scored_windows(image, classes), strict=True):
            parts.append(window.parts(area, self.settings.local_weight))
            paths.update(window.paths)
            if classes.whitening is None and self.settings.metric == "whitened":
                paths[_NOT_WHITENED] += len(window.local)
        return Scores(self._joined(image.windowed, parts, classes), paths)

    def _joined(self, item: WindowedImage, windows: list[WindowParts], vocabulary: Vocabulary) -> ScoreMaps:
        if not self.settings.pamr:
            return CellScores.of(windows, (item.image.shape[-2], item.image.shape[-1]))
        classes = contenders(windows, vocabulary.groups)
        return refined(windows, item.image, classes, self.settings.pamr, self.backbone.device)

    def score_image(self, pixels: np.ndarray, vocabulary: Vocabulary) -> torch.Tensor:
        """(C, h, w) scores of an (H, W, 3) uint8 image at the working size."""
        (item,) = self.score(self.encode_images([self.prepare(pixels)]), vocabulary)
        return item.maps if isinstance(item.maps, torch.Tensor) else item.maps.dense()

    def scored_windows(self, image: EncodedImage, vocabulary: Vocabulary) -> Iterator[ScoredWindow]:
        """Every window of an image with its regions' scores."""
        for window in image.windows:
            yield ScoredWindow(
                window=window,
                local=self.local_scores(window.features, vocabulary),
                patches=self.local_scores(window.tokens, vocabulary) if window.vanished.any() else None,
                similarity=window.embedding @ vocabulary.texts.T,
            )

    def local_scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        """(R, C) scores of (R, D) features, by the retrieval that the settings name."""
        if self.settings.retrieval == "class":
            return local_scores(vocabulary.compared(features), vocabulary.prototypes, vocabulary.usual)
        found = self.index.search_vectors(features.cpu().numpy(), self.settings.region_neighbors)
        keys = torch.from_numpy(self.index.mean_keys(found)).to(vocabulary.texts)
        return local_scores(keys, vocabulary.texts)

    def _merge(self, features: torch.Tensor, superpixels: Regions, window: torch.Tensor) -> Regions:
        """Superpixels of a (3, H, W) window, merged where their (D, h, w) features are alike."""
        chosen = self.settings
        if chosen.merge_above == 1:
            return superpixels
        pooled = pool_regions(features, superpixels.labels, chosen.pooling).cpu().numpy()
        merged = merge_alike(superpixels, pooled, chosen.merge_above)
        if not chosen.color_weight:
            return merged
        colors = mean_colors(window.permute(1, 2, 0).numpy(), superpixels.labels)
        return reassign(superpixels, merged, pooled, colors, chosen.color_weight)


def _digest(vector: np.ndarray) -> str:
    return hashlib.sha256(vector.tobytes()).hexdigest()[:12]
