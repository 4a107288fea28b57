"""Quality of FreeDA on the toy world, beside its ablations and oracles: dataset-level mIoU.

Vocabulary: all things and stuff, never the scene's own. Run from the checkout's root:
`python benchmarks/toy_quality.py [--scenes 300] [--index toy] [--write]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click
import numpy as np
import torch
from results import publish
from torch.nn import functional

from freeda.class_names import ClassName
from freeda.evaluation.datasets import ToyDataset
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.runner import THRESHOLDS
from freeda.index.reader import PrototypeIndex
from freeda.methods import load
from freeda.methods.freeda import FreedaSegmenter
from freeda.methods.freeda.compactness import compactness_of
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets import Preset
from freeda.presets.recipes import paper_recipe
from freeda.presets.settings import FROM_INDEX, FreedaSettings
from freeda.records import Regions
from freeda.segmentation.pamr import pamr
from freeda.segmentation.score_maps import best_class
from freeda.segmentation.scoring import fuse_scores, local_scores
from freeda.toyworld.measure import described_scenes, region_features
from freeda.toyworld.scenes import Scene, draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS, THINGS
from index_build.generation.textual_keys import textual_keys

CLASSES = tuple(ClassName(kind.name, kind.synonyms) for kind in KINDS)
Predict = Callable[[Scene], np.ndarray]
_HEADER = """## Quality on the toy world

`python benchmarks/toy_quality.py --write`, percent. The vocabulary is all things and stuff, never the
scene's own classes. "Oracle" rows replace one stage by the truth: they say what that stage loses.
"""


class Bench:
    """The parts of the segmenter, loaded once and recombined for every row."""

    def __init__(self, index: str) -> None:
        self.index = PrototypeIndex.open(index)
        preset = self.index.preset
        cpu = torch.device("cpu")
        self.clip = load_clip(preset.model_ids("clip"), cpu)
        self.backbone = load_backbone(preset.model_ids("backbone"), cpu)
        self.config = preset.segmentation
        self.vocabulary = self.segmenter().encode_classes(CLASSES)
        self.paper = paper_recipe(preset)

    def segmenter(self, **changes: object) -> FreedaSegmenter:
        parts = {"settings": self.config, **changes}
        return MethodSegmenter(FreedaMethod(self.index, self.clip, self.backbone, **parts))  # type: ignore[arg-type]

    def predict(self, segmenter: FreedaSegmenter, vocabulary: Vocabulary) -> Predict:
        def run(scene: Scene) -> np.ndarray:
            return labelled(segmenter.method, scene.image, vocabulary)

        return run

    def without_regions(self, scene: Scene, pamr_iterations: int) -> np.ndarray:
        """Every patch scored by itself, the scores upsampled bilinearly, and refined where asked."""
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        features = self.backbone.dense_features(image, self.config.dense_size)[0]
        compared = self.vocabulary.compared(features.flatten(1).T)
        local = local_scores(compared, self.vocabulary.prototypes, self.vocabulary.usual)
        similarity = self.vocabulary.texts @ self.clip.embed_images(image)[0]
        scores = fuse_scores(local, similarity, self.config.local_weight)
        return self._refined_labels(scores.T.reshape(-1, *features.shape[-2:]), image, pamr_iterations)

    def without_prototypes(self, scene: Scene) -> np.ndarray:
        """CLIP's own patch features against the class texts."""
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        similarity = torch.einsum("ck,khw->chw", self.vocabulary.texts, self.clip.embed_patches(image)[0])
        return self._refined_labels(similarity, image, self.config.pamr)

    def _refined_labels(self, scores: torch.Tensor, image: torch.Tensor, iterations: int) -> np.ndarray:
        """(H, W) labels of (C, h, w) scores, upsampled bilinearly and refined as the method's are."""
        size = (image.shape[-2], image.shape[-1])
        upsampled = functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        return best_class(pamr(upsampled, image[0], iterations), size)[0]


def labelled(method: FreedaMethod, image: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """(H, W) classes of an image, for a vocabulary that `MethodSegmenter` would not make."""
    (scores,) = method.score(method.encode_images([method.prepare(image)]), vocabulary)
    assert not isinstance(scores.maps, torch.Tensor)
    return scores.maps.best((image.shape[0], image.shape[1]), vocabulary.groups[0])[0]


def rows(bench: Bench) -> Iterator[tuple[str, Predict]]:
    """Every row's name and how it labels a scene."""
    full, vocabulary = bench.segmenter(), bench.vocabulary
    local_only = replace(bench.config, local_weight=1.0)
    yield "FreeDA complete", bench.predict(full, vocabulary)
    yield "without global similarity", bench.predict(bench.segmenter(settings=local_only), vocabulary)
    cosine = bench.segmenter(settings=replace(bench.config, metric="cosine"))
    yield "without whitening (plain cosine)", bench.predict(cosine, cosine.encode_classes(CLASSES))
    refined = bench.config.pamr
    yield "without regions (per patch, refined)", partial(bench.without_regions, pamr_iterations=refined)
    yield "without regions, without refinement", partial(bench.without_regions, pamr_iterations=0)
    unmerged = replace(bench.config, merge_above=1.0)
    yield "without merging of superpixels", bench.predict(bench.segmenter(settings=unmerged), vocabulary)
    yield "without prototypes (CLIP patches, refined)", bench.without_prototypes
    unrefined = replace(bench.config, pamr=0)
    yield "without refinement (PAMR)", bench.predict(bench.segmenter(settings=unrefined), vocabulary)
    for paper in (bench.paper, replace(bench.paper, neighbors=bench.config.neighbors)):
        segmenter = bench.segmenter(settings=paper)
        # Class names without synonyms, as the recipe has them: a vocabulary of its own.
        name = f"FreeDA, paper recipe with k = {paper.neighbors}"
        yield name, bench.predict(segmenter, segmenter.encode_classes(CLASSES))
    yield "DiffSegmenter", _diffsegmenter(bench.index.preset)
    released = replace(bench.index.preset, methods={})
    yield "DiffSegmenter, the paper's settings", _diffsegmenter(released)
    yield "chance", _chance
    yield "oracle regions", _with_true_regions(bench, vocabulary)
    for name, chosen in (
        ("oracle masks (retrieval over true masks)", _oracle_mask_vocabulary(bench)),
        ("oracle prototypes (true class means)", _oracle_prototype_vocabulary(bench)),
    ):
        yield name, bench.predict(full, chosen)
        yield f"{name} + oracle regions", _with_true_regions(bench, chosen)


def _with_true_regions(bench: Bench, vocabulary: Vocabulary) -> Predict:
    def run(scene: Scene) -> np.ndarray:
        _, compact = np.unique(scene.instances, return_inverse=True)
        regions = Regions(compact.reshape(scene.instances.shape).astype(np.int32))
        config = replace(bench.config, merge_above=1.0)
        segmenter = bench.segmenter(settings=config, find_regions=lambda image, config: regions)
        return bench.predict(segmenter, vocabulary)(scene)

    return run


def _diffsegmenter(preset: Preset) -> Predict:
    segmenter = load(method="diffsegmenter", preset=preset, device="cpu")
    segmenter.set_classes(CLASSES)
    return lambda scene: segmenter.segment(scene.image).labels


def _chance(scene: Scene) -> np.ndarray:
    """A random class for every true region."""
    rng = np.random.default_rng(int(scene.image.sum()))
    return rng.integers(0, len(CLASSES), 256)[scene.instances]


def _oracle_prototype_vocabulary(bench: Bench) -> Vocabulary:
    features, labels = region_features(
        bench.backbone, bench.config.dense_size, "validation", 600, normalize=False
    )
    return _with_prototypes(bench, [features[labels == number] for number in range(len(CLASSES))])


def _oracle_mask_vocabulary(bench: Bench) -> Vocabulary:
    """Real validation scenes with exact masks take the place of generated pictures and attention."""
    keys, vectors = [], []
    features, _ = region_features(bench.backbone, bench.config.dense_size, "validation", 600, normalize=False)
    offset = 0
    preset = bench.index.preset
    for item in described_scenes("validation", 600):
        present = np.unique(item.scene.instances)
        by_kind = {item.scene.kinds[number]: offset + row for row, number in enumerate(present)}
        (found,) = textual_keys(
            bench.clip, [(item.caption, item.spans)], preset.localization.key, bench.config.templates
        )
        for kind, key in zip(item.kinds, found, strict=True):
            if kind in by_kind and key is not None:
                keys.append(key)
                vectors.append(features[by_kind[kind]])
        offset += len(present)
    similarity = bench.vocabulary.texts.numpy() @ np.stack(keys).T
    nearest = np.argsort(-similarity, axis=1)[:, : bench.config.neighbors]
    similarity = np.take_along_axis(similarity, nearest, axis=1)
    near = similarity >= similarity[:, :1] - bench.config.neighbor_margin
    stacked = np.stack(vectors)
    return _with_prototypes(bench, [stacked[rows[kept]] for rows, kept in zip(nearest, near, strict=True)])


def _with_prototypes(bench: Bench, classes: Sequence[np.ndarray]) -> Vocabulary:
    """The vocabulary with these (n, D) vectors per class in place of the retrieved ones."""
    vocabulary = bench.vocabulary
    held = [vectors.astype(np.float32) for vectors in classes]
    means = torch.from_numpy(np.stack([vectors.mean(0) for vectors in held]))
    usual = bench.config.compactness_weight * compactness_of(held, vocabulary.compared)
    return replace(vocabulary, prototypes=vocabulary.compared(means), usual=usual)


def evaluate(predict: Predict, scenes: int) -> tuple[float, float]:
    """Data-set mIoU and pixel accuracy, in percent."""
    matrix = ConfusionMatrix(len(CLASSES))
    for number in range(scenes):
        scene = draw_scene(scene_rng("evaluation", number), 128)
        matrix.add(scene.labels, predict(scene))
    return 100 * matrix.mean_iou(), 100 * matrix.pixel_accuracy()


def evaluate_background(segmenter: Any, split: str, first: int, scenes: int) -> tuple[float, float, float]:
    """Things as classes and stuff as background: mIoU in percent at the method's own constant, and
    the constant that is best by these very labels with its mIoU.
    """
    data = ToyDataset(background=True)
    segmenter.set_classes(data.classes)
    fixed = ConfusionMatrix(len(data.classes) + 1)
    swept = [ConfusionMatrix(len(data.classes) + 1) for _ in THRESHOLDS]
    for number in range(first, first + scenes):
        scene = draw_scene(scene_rng(split, number), 128)
        truth = np.where(scene.labels < len(data.classes), scene.labels + 1, 0)
        result = segmenter.segment(scene.image)
        fixed.add(truth, result.labels)
        for threshold, matrix in zip(THRESHOLDS, swept, strict=True):
            matrix.add(truth, result.foreground.decide(threshold, result.ignore_index)[0])
    best = max(range(len(swept)), key=lambda number: swept[number].mean_iou())
    return 100 * fixed.mean_iou(), float(THRESHOLDS[best]), 100 * swept[best].mean_iou()


def background_settings(base: FreedaSettings) -> Iterator[tuple[str, FreedaSettings]]:
    """Ways to tell the background."""
    stuff = tuple(kind.name for kind in KINDS[len(THINGS) :])
    other_nouns = replace(base, background=None, background_concepts=FROM_INDEX)
    yield "the index's other nouns (the default)", other_nouns
    yield "all kinds of stuff as concepts", replace(other_nouns, background_concepts=stuff)
    constant = replace(other_nouns, background=0.4, background_concepts=())
    yield "a constant score (the paper's)", constant


def background_rows(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Methods that tell things from a background."""
    for name, settings in background_settings(bench.config):
        yield f"FreeDA, {name}", bench.segmenter(settings=settings, background=True)
    yield (
        "DiffSegmenter, a constant score",
        load(method="diffsegmenter", preset=bench.index.preset, device="cpu", background=True),
    )


def tables(bench: Bench, scenes: int) -> Iterator[str]:
    yield f"{len(bench.index)} prototypes, {scenes} held-out scenes, {len(CLASSES)} classes."
    yield ""
    yield "| | mIoU | pixel accuracy |"
    yield "|---|---|---|"
    for name, predict in rows(bench):
        miou, accuracy = evaluate(predict, scenes)
        yield f"| {name} | {miou:.1f} | {accuracy:.1f} |"
    yield ""
    yield "Things only as classes, stuff as background, on the same scenes. The oracle threshold is the"
    yield "constant score, beside the rule of the row, that these very labels prefer: no method's own result."
    yield ""
    yield "| what tells the background | mIoU | constant score | mIoU with the oracle threshold |"
    yield "|---|---|---|---|"
    for name, segmenter in background_rows(bench):
        fixed, best, oracle = evaluate_background(segmenter, "evaluation", 0, scenes)
        constant = segmenter.method.settings.background
        shown = "none" if constant is None else f"{constant:.2f}"
        yield f"| {name} | {fixed:.1f} | {shown} | {oracle:.1f} at {best:.2f} |"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--index", default="toy")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, index: str, write: bool) -> None:
    """Prints the tables."""
    publish("quality", [_HEADER], tables(Bench(index), scenes), write=write)


if __name__ == "__main__":
    main()
