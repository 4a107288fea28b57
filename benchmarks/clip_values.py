"""A second vector per prototype, as in CorrCLIPv2: CLIP's embedding of its masked picture, found by region.

A region asks for the prototypes whose visual vectors are nearest, and is compared with the class texts by the
mean of their CLIP values. The pictures of the toy index are drawn once more for it. Measured on validation
scenes. Run from the checkout's root: `python benchmarks/clip_values.py [--scenes 150] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import torch
from results import publish
from scenes import Measured, measured, miou
from torch.nn import functional

from freeda import PrototypeIndex
from freeda.class_names import ClassName
from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.toy import ToyDataset
from freeda.methods import load
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.models.attention import DegenerateMapError, localize
from freeda.models.clip_masks import embed_masks
from freeda.presets import Preset, load_preset
from freeda.records import Caption
from freeda.segmentation.regions import pool_mask
from freeda.segmentation.scoring import local_scores
from index_build.captions.nouns import NounFinder
from index_build.captions.taggers import open_tagger
from index_build.generation.prototypes import BuildModels, load_models
from index_build.generation.synthesis import Illustrated, illustrate, tokenize

_HEADER = """## CLIP values of prototypes

`python benchmarks/clip_values.py --scenes {scenes} --write`: {scenes} validation scenes, {count} prototypes
drawn anew from the toy index's captions. Each has, beside its visual vector, CLIP's embedding of its masked
picture (its value) and its textual key. A region takes the mean value, or key, of its {neighbors} nearest
prototypes by whitened visual vector. Its score is the sigmoid of a factor (the best of {factors}) times the
cosine with a class text less the mean over all classes. Percentage points with 95 % intervals from 10,000
resamples of the scenes.
"""
_FACTORS = (4.0, 16.0)
_NEIGHBORS = 20
_SHARES = (0.2, 0.4)
_CLIP_SCALE = 2.0
"""Masks are embedded at twice the input size of the toy CLIP, for finer ones."""


@dataclass(frozen=True)
class Store:
    """vectors: (N, D). values, keys: (N, K) unit vectors."""

    vectors: torch.Tensor
    values: torch.Tensor
    keys: torch.Tensor


class ValueMethod(FreedaMethod):
    """FreeDA whose local score is made, in part, of what a region's neighbours are worth to CLIP.

    told: (N, K) what the neighbours tell: values, or keys. share: of that in the local score.
    """

    store: Store
    told: torch.Tensor
    factor: float
    share: float

    def local_scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        compared = vocabulary.compared(features)
        found = self._by_neighbors(compared, vocabulary)
        if self.share == 1:
            return found
        return self.share * found + (1 - self.share) * local_scores(
            compared, vocabulary.prototypes, vocabulary.usual
        )

    def _by_neighbors(self, compared: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        near = (compared @ vocabulary.compared(self.store.vectors).T).topk(_NEIGHBORS).indices
        mean = functional.normalize(self.told[near].mean(1), dim=-1)
        cosines = mean @ vocabulary.texts.T
        return torch.sigmoid(self.factor * (cosines - cosines.mean(1, keepdim=True)))


def drawn(models: BuildModels) -> Iterator[Illustrated]:
    """The toy index's captions, illustrated with their own seeds."""
    preset, find_nouns, captions = load_preset("toy"), NounFinder(open_tagger()), {}
    for row in _rows(["caption_id", "caption", "seed"]):
        captions[row["caption_id"]] = (row["caption"], row["seed"])
    items = []
    for name, (text, seed) in captions.items():
        item, _ = tokenize(models.pipeline, Caption(id=name, text=text), find_nouns(text), seed)
        items += [item] if item else []
    for batch in illustrate(models.pipeline, items, preset.synthesis, preset.localization):
        yield from batch


def _rows(columns: Sequence[str]) -> list[dict[str, Any]]:
    index = PrototypeIndex.open("toy")
    return index.rows(range(len(index)), columns)


def made(models: BuildModels) -> Store:
    """All prototypes of the captions' pictures, as a build localises and pools them."""
    preset = load_preset("toy")
    vectors, values, nouns = [], [], []
    for item in drawn(models):
        pixels = torch.from_numpy(item.picture.pixels).permute(2, 0, 1)[None].float() / 255
        features = models.backbone.dense_features(pixels, preset.segmentation.dense_size)[0]
        for span, noun_map in zip(item.source.spans, item.picture.noun_maps, strict=True):
            try:
                mask, _ = localize(noun_map, (pixels.shape[-2], pixels.shape[-1]), **_limits(preset))
            except DegenerateMapError:
                continue
            vectors.append(pool_mask(features, mask))
            cover = torch.from_numpy(mask.astype(np.float32))[None, None]
            values.append(embed_masks(models.clip, pixels, cover, scale=_CLIP_SCALE)[0, 0])
            nouns.append(ClassName(span.noun))
    keys = models.clip.embed_classes(nouns, preset.segmentation.templates)
    return Store(torch.stack(vectors), torch.stack(values), torch.from_numpy(keys))


def _limits(preset: Preset) -> dict[str, float]:
    chosen = preset.localization
    names = ("threshold", "min_area", "max_area", "min_peak")
    return {name: getattr(chosen, name) for name in names}


def with_values(store: Store, told: torch.Tensor, factor: float, share: float) -> Any:
    """The toy segmenter, whose local score is made of neighbours' values or keys by a share."""
    usual = load("toy")
    method = copy(usual.method)  # type: ignore[attr-defined]
    method.__class__ = ValueMethod
    method.store, method.told, method.factor, method.share = store, told, factor, share
    return usual.with_method(method)  # type: ignore[attr-defined]


def table(store: Store, scenes: int) -> Iterator[str]:
    data = ToyDataset(split="validation")
    usual = measured(load("toy"), scenes, data=data)
    yield "| local score | mIoU | gain |"
    yield "|---|---|---|"
    yield f"| by class, as it is | {usual.miou():.1f} | |"
    for name, told in (("CLIP's values", store.values), ("textual keys", store.keys)):
        for share in (1.0, *_SHARES):
            tried = [
                measured(with_values(store, told, factor, share), scenes, data=data) for factor in _FACTORS
            ]
            best = max(tried, key=Measured.miou)
            rest = "alone" if share == 1 else f"{share:.0%} of it, the rest by class"
            gain = paired_bootstrap(best.counts, usual.counts, lambda sums: 100 * miou(sums))
            yield f"| {name} of neighbours, {rest} | {best.miou():.1f} | {gain} |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", default=150)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, write: bool) -> None:
    """Prints the table."""
    store = made(load_models(load_preset("toy"), "cpu"))
    factors = " and ".join(f"{factor:g}" for factor in _FACTORS)
    head = _HEADER.format(scenes=scenes, count=len(store.vectors), neighbors=_NEIGHBORS, factors=factors)
    publish("clip-values", [head], table(store, scenes), write=write)


if __name__ == "__main__":
    main()
