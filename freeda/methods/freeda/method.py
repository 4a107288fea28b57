"""FreeDA's online stage (section 3.2 of the paper): retrieve, pool, compare, fuse.

Shapes: `C` classes, `R` regions, `K` width of a key, `D` width of a dense feature, `H W` pixels, `h w`
    tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.index.noun_keys import NounKeys, frequent_nouns
from freeda.index.reader import PrototypeIndex
from freeda.methods.base import Scores
from freeda.methods.freeda.concepts import Concepts, other_nouns, unnamed
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.models.backbone import Backbone
from freeda.models.clip import ClipModel
from freeda.presets.settings import FROM_INDEX, FreedaSettings
from freeda.records import ClassPrototypes, Regions
from freeda.segmentation.cells import Area, CellScores, WindowParts
from freeda.segmentation.merging import merge_alike
from freeda.segmentation.refinement import contenders, refined
from freeda.segmentation.regions import area_weights, pool_regions, region_weights, superpixels, token_shares
from freeda.segmentation.score_maps import ScoreMaps
from freeda.segmentation.scoring import fuse_scores, local_scores
from freeda.segmentation.windows import WindowedImage, same_sized

__all__ = ["FindRegions", "FreedaMethod", "ScoredWindow", "find_superpixels"]

_MOST_NOUNS = 500
"""The index's nouns that compete as background, the most frequent ones."""
FindRegions = Callable[[np.ndarray, FreedaSettings], Regions]


def find_superpixels(image: np.ndarray, settings: FreedaSettings) -> Regions:
    """The method's own regions: superpixels of an (H, W, 3) float32 window in [0, 1]."""
    return superpixels(image, settings.superpixels)


@dataclass(frozen=True)
class ScoredWindow:
    """One window of an image with its regions' scores.

    image, number: of the window among the images given.
    regions: superpixels, merged where their features are alike.
    tokens: (h * w, D) dense features.
    grid: (h, w).
    features: (R, D) pooled features.
    vanished: (R,) bool, regions that no token has a share of.
    local: (R, C) local scores; of no meaning for regions that vanished.
    patches: (h * w, C) local scores of the tokens; None where no region vanished.
    similarity: (C,) cosine of the window and each class text.
    """

    image: int
    number: int
    regions: Regions
    tokens: torch.Tensor
    grid: tuple[int, int]
    features: torch.Tensor
    vanished: torch.Tensor
    local: torch.Tensor
    patches: torch.Tensor | None
    similarity: torch.Tensor

    @property
    def paths(self) -> dict[str, int]:
        lost = int(self.vanished.sum())
        return {"regions pooled": len(self.vanished) - lost, "regions scored by patch": lost}

    def parts(self, area: Area, local_weight: float) -> WindowParts:
        """Local and global scores together, by region; of a region that vanished, by pixel."""
        rows = self._fused(self.local, local_weight)
        count = len(self.vanished)
        parts, mixture = self.regions.labels.astype(np.int64), sparse.identity(count, np.float32, "csr")
        if self.patches is not None:
            lost = np.flatnonzero(self.vanished.cpu().numpy()[parts].ravel())
            parts.reshape(-1)[lost] = count + np.arange(len(lost))
            shares = token_shares(self.grid, (parts.shape[0], parts.shape[1]), lost)
            mixture = sparse.block_diag((mixture, shares), "csr")
            rows = np.concatenate([rows, self._fused(self.patches, local_weight)])
        return WindowParts(area, parts, mixture, rows)

    def _fused(self, local: torch.Tensor, local_weight: float) -> np.ndarray:
        return fuse_scores(local, self.similarity, local_weight).cpu().numpy()

    def local_at(self, row: int, column: int) -> torch.Tensor:
        """(C,) local scores of a pixel."""
        labels = self.regions.labels
        region = labels[row, column]
        if self.patches is None or not self.vanished[region]:
            return self.local[region]
        pixel = np.array([row * labels.shape[1] + column])
        shares = token_shares(self.grid, (labels.shape[0], labels.shape[1]), pixel)
        return torch.from_numpy(shares.toarray()[0]).to(self.patches.device) @ self.patches

    def feature_at(self, row: int, column: int) -> torch.Tensor:
        """(D,) feature of a pixel's region; of one that vanished, the mean by shares of its pixels."""
        region = self.regions.labels[row, column]
        if not self.vanished[region]:
            return self.features[region]
        return area_weights(self.regions.labels, self.grid)[region].to(self.tokens.device) @ self.tokens


class FreedaMethod:
    """Scores images by retrieval from a prototype index.

    index, clip, backbone: the index must have been built with these models.
    settings: numbers of the online stage.
    background: whether pixels of none of the classes are labelled as background.
    find_regions: class-agnostic regions of a window.
    batch: windows that pass the models at once.
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
    ) -> None:
        index.require_models(clip=clip.fingerprint(), backbone=backbone.fingerprint())
        self.index, self.clip, self.backbone = index, clip, backbone
        self.settings = settings
        self.batch = batch
        self.find_regions = find_regions
        self._with_background = background

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "method": "freeda",
            "index": self.index.manifest.build_fingerprint,
            "prototypes": len(self.index),
            "with_background": self._with_background,
            **asdict(self.settings),
        }

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
        found = self._prototypes(texts)
        device = self.backbone.device
        prototypes = torch.from_numpy(found.vectors.astype(np.float32)).to(device)
        return Vocabulary(classes, concepts.names, torch.from_numpy(texts).to(device), prototypes, found)

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
            chosen.short_side,
            chosen.window,
            chosen.stride,
            lambda window: self.find_regions(window, chosen),
            antialias=chosen.resizing == "antialiased",
        )

    def score(self, images: Sequence[WindowedImage], classes: Vocabulary) -> list[Scores]:
        """Mean scores of overlapping windows, at the working size. Windows of all images pass the models
        together.
        """
        parts: list[list[WindowParts]] = [[] for _ in images]
        paths: list[Counter[str]] = [Counter() for _ in images]
        for window in self.scored_windows(images, classes):
            area = images[window.image].areas[window.number]
            parts[window.image].append(window.parts(area, self.settings.local_weight))
            paths[window.image].update(window.paths)
        return [
            Scores(self._joined(image, found, classes), counted)
            for image, found, counted in zip(images, parts, paths, strict=True)
        ]

    def _joined(self, item: WindowedImage, windows: list[WindowParts], vocabulary: Vocabulary) -> ScoreMaps:
        if not self.settings.pamr:
            return CellScores.of(windows, (item.image.shape[-2], item.image.shape[-1]))
        classes = contenders(windows, vocabulary.groups)
        return refined(windows, item.image, classes, self.settings.pamr, self.backbone.device)

    def score_image(self, pixels: np.ndarray, vocabulary: Vocabulary) -> torch.Tensor:
        """(C, h, w) scores of an (H, W, 3) uint8 image at the working size."""
        (item,) = self.score([self.prepare(pixels)], vocabulary)
        return item.maps if isinstance(item.maps, torch.Tensor) else item.maps.dense()

    def scored_windows(
        self, images: Sequence[WindowedImage], vocabulary: Vocabulary
    ) -> Iterator[ScoredWindow]:
        """Every window of some images with its regions' scores."""
        for numbers in same_sized(images, self.batch):
            windows = torch.stack([images[image].window(number) for image, number in numbers])
            plain = self.settings.resizing == "plain"
            features = self.backbone.dense_features(
                windows, self.settings.dense_size, "bilinear" if plain else "antialiased"
            )
            embedded = self.clip.embed_images(windows, "bicubic" if plain else "antialiased")
            similarity = embedded @ vocabulary.texts.T
            for row, (image, number) in enumerate(numbers):
                regions = self._merge(features[row], images[image].regions[number])
                tokens, grid = features[row].flatten(1).T, (features.shape[-2], features.shape[-1])
                weights = region_weights(regions.labels, grid, self.settings.pooling).to(features.device)
                pooled, vanished = weights @ tokens, weights.sum(1) == 0
                yield ScoredWindow(
                    image=image,
                    number=number,
                    regions=regions,
                    tokens=tokens,
                    grid=grid,
                    features=pooled,
                    vanished=vanished,
                    local=self.local_scores(pooled, vocabulary),
                    patches=self.local_scores(tokens, vocabulary) if vanished.any() else None,
                    similarity=similarity[row],
                )

    def local_scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        """(R, C) scores of (R, D) features, by the retrieval that the settings name."""
        if self.settings.retrieval == "class":
            return local_scores(features, vocabulary.prototypes)
        found = self.index.search_vectors(features.cpu().numpy(), self.settings.region_neighbors)
        keys = torch.from_numpy(self.index.mean_keys(found)).to(vocabulary.texts)
        return local_scores(keys, vocabulary.texts)

    def _merge(self, features: torch.Tensor, regions: Regions) -> Regions:
        """A window's superpixels, merged where their (D, h, w) features are alike."""
        if self.settings.merge_above == 1:
            return regions
        pooled = pool_regions(features, regions.labels, self.settings.pooling)
        return merge_alike(regions, pooled.cpu().numpy(), self.settings.merge_above)
