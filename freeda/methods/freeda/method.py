"""FreeDA's online stage (Barsellotti et al., CVPR 2024, section 3.2): retrieve, pool, compare, fuse.

Shapes: `C` classes, `K` width of a key, `D` width of a dense feature, `H W` pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch.nn import functional

from freeda.presets.settings import Preset
from freeda.presets.settings import Segmentation as Config
from freeda.segmentation.decision import decide
from freeda.errors import ClassNamesError, ConfigError
from freeda.segmentation.evidence import Candidate, Evidence, Vote
from freeda.segmentation.images import ImageLike, OnError, map_ahead, read_image, reading_pool
from freeda.index.reader import PrototypeIndex
from freeda.models.loading import choose_device, usual_precision
from freeda.segmentation.merging import merge_alike
from freeda.methods.freeda.vocabulary import Vocabulary, parse_concepts, unasked
from freeda.presets import load_preset
from freeda.presets.recipes import load_recipe
from freeda.class_names import ClassName
from freeda.records import Regions
from freeda.segmentation.pamr import pamr
from freeda.segmentation.regions import area_weights, pool_regions, region_weights, superpixels
from freeda.segmentation.scoring import fuse_scores, local_scores, paint_regions, upsample_patches
from freeda.class_names import BACKGROUND
from freeda.segmentation.result import Segmentation
from freeda.models.clip import ClipModel, load_clip
from freeda.class_names import parse_class_names
from freeda.models.backbone import Backbone, load_backbone
from freeda.models.clip import embed_images
from freeda.segmentation.windows import WindowedImage, WindowScores, grouped, same_sized

__all__ = ["FreedaSegmenter", "Vocabulary", "load"]

_CANDIDATES, _VOTES = 6, 6
_MOST_AHEAD = 16
"""Images read ahead of their turn at most: photographs decoded take 100 MB each."""
Classes = str | Sequence[str] | Sequence[ClassName]
FindRegions = Callable[[np.ndarray, Config], Regions]


def find_superpixels(image: np.ndarray, config: Config) -> Regions:
    """The method's own regions: superpixels of an (H, W, 3) float32 window in [0, 1]."""
    return superpixels(image, config.superpixels)


class FreedaSegmenter:
    """Segments images into any classes by retrieval from a prototype index.

    The parts are passed in, so that each can be replaced; `freeda.load` puts the usual ones together.
    batch: windows that the models see at once; threads: that read images and find superpixels, 0
    for one a core.
    """

    explains = True

    def __init__(
        self,
        index: PrototypeIndex,
        clip: ClipModel,
        backbone: Backbone,
        config: Config,
        *,
        background: bool = False,
        find_regions: FindRegions = find_superpixels,
        batch: int = 8,
        threads: int = 0,
    ) -> None:
        index.require_models(clip=clip.fingerprint(), backbone=backbone.fingerprint())
        self.index = index
        self.config = config
        self.background = background
        self.batch = batch
        self.threads = threads or os.cpu_count() or 1
        self._clip = clip
        self._backbone = backbone
        self._find_regions = find_regions
        self._vocabulary: Vocabulary | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a result depends on, besides image and classes, as plain data."""
        return {
            "index": self.index.manifest.build_fingerprint,
            "prototypes": len(self.index),
            "with_background": self.background,
            **asdict(self.config),
        }

    def set_classes(self, classes: Classes) -> Vocabulary:
        """Chooses the classes of the images to come: "cat,kitten; dog", or a list of such entries."""
        self._vocabulary = self.encode_classes(classes)
        return self._vocabulary

    def encode_classes(self, classes: Classes) -> Vocabulary:
        """Embeds the class names and retrieves their prototypes."""
        parsed = parse_class_names(classes, background=self.background)
        concepts = unasked(self.config.background_concepts, parsed) if self.background else ()
        texts = self._clip.embed_classes([*parsed, *concepts], self.config.templates)
        found = self.index.class_prototypes(texts, self.config.neighbors, margin=self.config.neighbor_margin)
        device = self._backbone.device
        return Vocabulary(
            parsed,
            concepts,
            torch.from_numpy(texts).to(device),
            torch.from_numpy(found.vectors.astype(np.float32)).to(device),
            found,
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
        """Segments any number of images, in order, a few of them in memory at a time.

        Images are read and cut into superpixels by threads while the models run, and the models see
        windows of several images at once. An image that cannot be read goes to `on_error` and gives
        no result; without `on_error` its error is raised.
        """
        chosen = vocabulary or self._vocabulary
        if chosen is None:
            raise ClassNamesError('no classes chosen; call set_classes(["cat", "dog"]) first')
        ahead = min(2 * self.threads, _MOST_AHEAD)
        with reading_pool(self.threads) as pool:
            prepared = map_ahead(pool, self._prepare, images, on_error, ahead)
            for group in grouped(prepared, self.batch):
                for item, scores in zip(group, self._score_group(group, chosen), strict=True):
                    yield self._decide(item, scores, chosen)

    def _decide(self, item: WindowedImage, scores: WindowScores, vocabulary: Vocabulary) -> Segmentation:
        return decide(
            item.pixels,
            scores.mean(),
            [entry.name for entry in vocabulary.classes],
            background=self.config.background if self.background else None,
            paths=scores.paths,
            explainer=partial(self._explain, item.pixels, vocabulary),
        )

    def _explain(self, pixels: np.ndarray, vocabulary: Vocabulary, x: int, y: int) -> Evidence:
        """Evidence for pixel (x, y) of the original image, averaged over the windows that hold it."""
        item = self._prepare(pixels)
        row, column = (
            min(int((at + 0.5) * working / original), working - 1)
            for at, working, original in zip(
                (y, x), item.image.shape[-2:], item.pixels.shape[:2], strict=True
            )
        )
        holding = item.windows_at(row, column)
        windows = torch.stack([item.window(number) for number in holding])
        features = self._backbone.dense_features(windows, self.config.dense_size)
        similarity = (embed_images(self._clip, windows) @ vocabulary.texts.T).mean(0)
        local, feature, regions = torch.zeros_like(similarity), features.new_zeros(0), list(item.regions)
        for window, number in zip(reversed(features), reversed(holding), strict=True):
            rows, columns = item.areas[number]
            place = (row - rows.start, column - columns.start)
            regions[number] = self._merge(window, item.regions[number])
            scores, feature = self._local_at(window, regions[number], place, vocabulary)
            local = local + scores / len(holding)
        fused = fuse_scores(local[None], similarity, self.config.local_weight)[0]
        if self.config.pamr:
            fused = self._score_group([item], vocabulary)[0].mean()[:, row, column]
        candidates = self._candidates(vocabulary, fused, local, similarity)
        return Evidence(
            pixels,
            x,
            y,
            replace(item, regions=regions).region_at(holding[0], row, column),
            self.config.local_weight,
            candidates,
            self._votes(vocabulary, candidates[0].name, feature),
            refined=self.config.pamr > 0,
        )

    def _merge(self, features: torch.Tensor, regions: Regions) -> Regions:
        """A window's superpixels, joined where their (D, h, w) features are alike."""
        if self.config.merge_above == 1:
            return regions
        pooled = pool_regions(features, regions.labels, self.config.pooling)
        return merge_alike(regions, pooled.cpu().numpy(), self.config.merge_above)

    def _local_at(
        self, features: torch.Tensor, regions: Regions, place: tuple[int, int], vocabulary: Vocabulary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(C,) local scores of one window's pixel, and the (D,) feature of its region."""
        grid = (features.shape[-2], features.shape[-1])
        region, tokens = regions.labels[place], features.flatten(1).T
        weights = region_weights(regions.labels, grid, self.config.pooling)[region].to(features.device)
        feature = area_weights(regions.labels, grid)[region].to(features.device) @ tokens
        if weights.sum() > 0:
            return self._local_scores((weights @ tokens)[None], vocabulary)[0], feature
        patches = self._local_scores(tokens, vocabulary)
        return upsample_patches(patches, grid, regions.labels.shape)[(slice(None), *place)], feature

    def _candidates(
        self,
        vocabulary: Vocabulary,
        scores: torch.Tensor,
        local: torch.Tensor,
        similarity: torch.Tensor,
    ) -> tuple[Candidate, ...]:
        """The best classes; on a tie what stands for the background comes first, as in the label map."""
        asked = len(vocabulary.classes)
        order = [*range(asked, len(vocabulary.texts)), *range(asked)]
        parts = zip(*(values.tolist() for values in (scores, local, similarity)), strict=True)
        found = list(zip(vocabulary.row_names, parts, strict=True))
        ranked = [found[number] for number in order]
        if self.background:
            ranked.insert(0, (BACKGROUND, (self.config.background,) * 3))
        ranked.sort(key=lambda item: -item[1][0])
        return tuple(
            Candidate(name=name, score=round(score, 4), local=round(own, 4), global_=round(whole, 4))
            for name, (score, own, whole) in ranked[:_CANDIDATES]
        )

    def _votes(self, vocabulary: Vocabulary, name: str, feature: torch.Tensor) -> tuple[Vote, ...]:
        """The prototypes behind a class that look most like the region; none for the background.

        Where regions retrieve, those that the region found, and how near the class they are.
        """
        if name not in vocabulary.row_names:
            return ()
        best = vocabulary.row_names.index(name)
        rows = self._voters(vocabulary, best, feature)
        vectors = torch.from_numpy(self.index.vectors(rows)).to(feature.device)
        looks = functional.normalize(vectors, dim=-1) @ functional.normalize(feature, dim=-1)
        looks = looks.nan_to_num(-1.0)  # a damaged prototype votes last
        chosen = looks.argsort(descending=True, stable=True)[:_VOTES].tolist()
        texts = self.index.keys_of(rows[chosen]) @ vocabulary.texts[best].cpu().numpy()
        columns = ("id", "noun", "caption", "thumbnail")
        return tuple(
            Vote(
                **row,
                text_similarity=round(float(text), 4),
                visual_similarity=round(float(looks[number]), 4),
            )
            for number, text, row in zip(chosen, texts, self.index.rows(rows[chosen], columns), strict=True)
        )

    def _voters(self, vocabulary: Vocabulary, best: int, feature: torch.Tensor) -> np.ndarray:
        if self.config.retrieval == "region":
            rows = self.index.search_vectors(feature[None].cpu().numpy(), self.config.region_neighbors)[0]
        else:
            rows = vocabulary.retrieved.rows[best]
        return rows[rows >= 0]

    def _local_scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        """(R, C) scores of (R, D) features, by the retrieval that the configuration names."""
        if self.config.retrieval == "class":
            return local_scores(features, vocabulary.prototypes)
        found = self.index.search_vectors(features.cpu().numpy(), self.config.region_neighbors)
        keys = torch.from_numpy(self.index.mean_keys(found)).to(vocabulary.texts)
        return local_scores(keys, vocabulary.texts)

    def score_image(self, pixels: np.ndarray, vocabulary: Vocabulary) -> torch.Tensor:
        """(C, h, w) scores of an (H, W, 3) uint8 image at the working size: windows averaged."""
        return self._score_group([self._prepare(pixels)], vocabulary)[0].mean()

    def _prepare(self, image: ImageLike) -> WindowedImage:
        config = self.config
        return WindowedImage.cut(
            read_image(image),
            config.short_side,
            config.window,
            config.stride,
            lambda window: self._find_regions(window, config),
        )

    def _score_group(self, group: Sequence[WindowedImage], vocabulary: Vocabulary) -> list[WindowScores]:
        """Scores images whose windows pass the models together."""
        totals = [WindowScores.empty(len(vocabulary.texts), item.image.shape[-2:]) for item in group]
        for places in same_sized(group, self.batch):
            windows = torch.stack([group[image].window(number) for image, number in places])
            features = self._backbone.dense_features(windows, self.config.dense_size)
            similarity = embed_images(self._clip, windows) @ vocabulary.texts.T
            for row, (image, number) in enumerate(places):
                regions = group[image].regions[number]
                scores, paths = self._score_regions(features[row], regions, similarity[row], vocabulary)
                if self.config.pamr:
                    scores = pamr(scores, windows[row].to(scores.device), self.config.pamr)
                totals[image].add(group[image].areas[number], scores.cpu(), paths)
        return totals

    def _score_regions(
        self, features: torch.Tensor, regions: Regions, similarity: torch.Tensor, vocabulary: Vocabulary
    ) -> tuple[torch.Tensor, dict[str, int]]:
        """(C, H, W) scores of one window, and how many of its regions took which path.

        features: (D, h, w); similarity: (C,) of the window and each class text.
        """
        regions = self._merge(features, regions)
        grid = (features.shape[-2], features.shape[-1])
        weights = region_weights(regions.labels, grid, self.config.pooling).to(features.device)
        tokens = features.flatten(1).T
        local = self._local_scores(weights @ tokens, vocabulary)
        scores = paint_regions(fuse_scores(local, similarity, self.config.local_weight), regions.labels)
        vanished = (weights.sum(1) == 0).cpu().numpy()
        if vanished.any():
            patches = fuse_scores(
                self._local_scores(tokens, vocabulary), similarity, self.config.local_weight
            )
            lost = torch.from_numpy(vanished[regions.labels]).to(scores.device)
            scores = torch.where(lost, upsample_patches(patches, grid, regions.labels.shape), scores)
        return scores, {
            "regions pooled": int((~vanished).sum()),
            "regions scored by patch": int(vanished.sum()),
        }


def load(
    index: str | Path = "toy",
    *,
    preset: str | Preset | None = None,
    recipe: str = "default",
    device: str = "auto",
    background: bool = False,
    background_concepts: str | Sequence[str] | None = None,
    neighbors: int | None = None,
) -> FreedaSegmenter:
    """Opens an index and the models it was built with; `preset` overrides where they are taken from;
    `recipe` is "default", or "paper" for the released code's algorithm step by step.

    background_concepts: what competes with the classes as background ("sky; wall", "usual" for a
    list of what surrounds things in photographs, "none"), instead of the preset's.
    """
    opened = PrototypeIndex.open(index)
    chosen = _choose_preset(opened, preset)
    place = choose_device(device)
    dtype = usual_precision(place)
    config = load_recipe(recipe, chosen)
    if background_concepts is not None and not background:
        raise ConfigError(
            "background concepts were given, but no background is asked for; add background (--background), "
            "or evaluate a data set that has one"
        )
    if neighbors is not None:
        config = replace(config, neighbors=neighbors)
    if background_concepts is not None:
        config = replace(config, background_concepts=parse_concepts(background_concepts))
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
