"""Variations of FreeDA's online stage on the toy world: superpixels, how neighbours make a class, what
asks the index, names, and the background.

Measured on validation scenes, so that choosing by it spoils no evaluation figure. Run from the
checkout's root: `python benchmarks/toy_variants.py [--scenes 150] [--index toy] [--write]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import cv2
import faiss
import numpy as np
import torch
from results import publish
from skimage.segmentation import slic
from torch.nn import functional
from toy_quality import CLASSES, Bench, background_settings, evaluate_background, labelled

import freeda.methods.freeda.method as method
import freeda.segmentation.refinement as refinement
from freeda.class_names import ClassName
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.index.editing import subset
from freeda.index.reader import PrototypeIndex
from freeda.presets.settings import FreedaSettings
from freeda.records import Regions
from freeda.segmentation.regions import superpixels
from freeda.toyworld.scenes import draw_scene, scene_rng

_FIRST_SCENE = 2000
FindRegions = Callable[[np.ndarray, FreedaSettings], Regions]
LocalScores = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | float], torch.Tensor]


def region_finders(config: FreedaSettings) -> Iterator[tuple[str, FindRegions]]:
    """Superpixel algorithms; what they find is then merged as the configuration says."""
    for algorithm in ("graph", "felzenszwalb"):
        chosen = replace(config.superpixels, algorithm=algorithm)  # type: ignore[arg-type]
        name = {"graph": "graph segmentation, OpenCV", "felzenszwalb": "the same, scikit-image"}[algorithm]
        yield name, lambda image, _, chosen=chosen: superpixels(image, chosen)
    yield "SLIC, scikit-image", _slic
    yield "SEEDS, OpenCV", _seeds


def _slic(image: np.ndarray, config: FreedaSettings) -> Regions:
    labels = slic(image, n_segments=500, compactness=5.0, start_label=0)
    return _renumbered(labels)


def _seeds(image: np.ndarray, config: FreedaSettings) -> Regions:
    height, width = image.shape[:2]
    finder = cv2.ximgproc.createSuperpixelSEEDS(width, height, 3, 500, 3)
    finder.iterate((image * 255).astype(np.uint8), 8)
    return _renumbered(finder.getLabels())


def _renumbered(labels: np.ndarray) -> Regions:
    _, compact = np.unique(labels, return_inverse=True)
    return Regions(compact.reshape(labels.shape).astype(np.int32))


def neighbour_scores(bench: Bench) -> Iterator[tuple[str, LocalScores]]:
    """Local scores by other uses of all retrieved vectors; prototypes passed in, and what is usual for
    them, are not used.

    Regions come as they are compared: whitened.
    """
    whitened = bench.vocabulary.compared
    found = bench.index.class_prototypes(bench.vocabulary.texts.numpy(), bench.config.neighbors)
    held = torch.from_numpy(found.rows >= 0)  # classes have more or fewer neighbours where some tie
    vectors = torch.zeros(*held.shape, bench.index.manifest.vector_dim)
    vectors[held] = torch.from_numpy(bench.index.vectors(found.rows[found.rows >= 0]))
    members = [own[kept] for own, kept in zip(vectors, held, strict=True)]
    unit = whitened(vectors)
    similarity = torch.from_numpy(found.similarities)
    means = torch.stack([own.mean(0) for own in members])
    yield "plain mean of all (the paper's)", _to_prototypes(whitened(means)[:, None])
    yield "mean of whitened vectors", _to_prototypes((unit * held[..., None]).sum(1)[:, None])
    logits = (similarity / 0.05).masked_fill(~held, -torch.inf)
    weighted = (logits.softmax(1)[..., None] * vectors).sum(1)
    yield "mean weighted by text similarity", _to_prototypes(whitened(weighted)[:, None])
    for count in (2, 4):
        centroids = whitened(_centroids(members, count))
        yield f"{count} prototypes per class (k-means), the best", _to_prototypes(centroids)
    for best in (1, 3):
        name = "the best single neighbour" if best == 1 else f"mean of the {best} best neighbours"
        yield name, partial(_to_nearest, unit, held, best)


def _to_nearest(
    unit: torch.Tensor, held: torch.Tensor, best: int, regions: torch.Tensor, *_: torch.Tensor | float
) -> torch.Tensor:
    """Scores against the mean cosine of each class's `best` most alike of (C, M, D) unit vectors.

    held: (C, M) bool, which of them are a class's own.
    """
    cosines = torch.einsum("rd,cmd->rcm", functional.normalize(regions, dim=-1), unit)
    return torch.sigmoid(cosines.masked_fill(~held, -1.0).topk(best, -1).values.mean(-1))


def _to_prototypes(vectors: torch.Tensor) -> LocalScores:
    """Scores against the most alike of each class's (C, M, D) vectors."""
    unit = functional.normalize(vectors, dim=-1)

    def scores(regions: torch.Tensor, *_: torch.Tensor | float) -> torch.Tensor:
        cosines = torch.einsum("rd,cmd->rcm", functional.normalize(regions, dim=-1), unit)
        return torch.sigmoid(cosines.amax(-1))

    return scores


def _centroids(members: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    centroids = []
    for vectors in members:
        clusters = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=0, min_points_per_centroid=1)
        clusters.train(np.ascontiguousarray(vectors.numpy()))
        centroids.append(clusters.centroids)
    return torch.from_numpy(np.stack(centroids))


def take_quarter(index: PrototypeIndex, folder: Path) -> Path:
    """Writes the index of every fourth caption's prototypes."""
    captions = list(dict.fromkeys(index.column("caption_id")))
    subset(index, folder, caption_ids=captions[::4])
    return folder


def options(bench: Bench) -> Iterator[tuple[str, FreedaSettings, Sequence[ClassName]]]:
    """Choices that a configuration or a class list makes."""
    yield "whitened features (the default)", bench.config, CLASSES
    for shrinkage in (0.03, 0.3, 1.0):
        yield f"shrinkage {shrinkage}", replace(bench.config, shrinkage=shrinkage), CLASSES
    cosine = replace(bench.config, metric="cosine")
    for weight in (0.65, 0.7, 0.75, 0.8):
        changed = replace(cosine, local_weight=weight)
        yield f"plain cosine (the paper's), local weight {weight}", changed, CLASSES
    for neighbors in (5, 20, 50):
        by_region = replace(bench.config, retrieval="region", region_neighbors=neighbors)
        yield f"retrieval by image region, {neighbors} nearest", by_region, CLASSES
    yield "superpixels not merged", replace(bench.config, merge_above=1.0), CLASSES
    yield "one name per class, no synonyms", bench.config, [ClassName(item.name) for item in CLASSES]


def changed_by_contenders(bench: Bench, scenes: int) -> tuple[int, float]:
    """Pixels labelled otherwise than if PAMR refined all classes, and how many classes it refines on
    average.
    """
    segmenter, changed, refined_classes = bench.segmenter(), 0, 0
    for number in range(_FIRST_SCENE, _FIRST_SCENE + scenes):
        image = draw_scene(scene_rng("validation", number), 128).image
        found = []
        for ranks in (refinement._RANKS, len(CLASSES)):
            method.contenders = partial(refinement.contenders, ranks=ranks)
            encoded = segmenter.method.encode_images([segmenter.method.prepare(image)])
            (scores,) = segmenter.method.score(encoded, bench.vocabulary)
            found.append(scores.maps.best(image.shape[:2], slice(0, len(CLASSES)))[0])
            refined_classes += len(scores.maps.numbers) if ranks == refinement._RANKS else 0
        changed += int((found[0] != found[1]).sum())
    method.contenders = refinement.contenders
    return changed, refined_classes / scenes


def evaluate(
    bench: Bench,
    scenes: int,
    find: FindRegions | None = None,
    config: FreedaSettings | None = None,
    classes: Sequence[ClassName] = CLASSES,
) -> tuple[float, float]:
    """MIoU in percent, and milliseconds per image spent on regions."""
    spent = [0.0]

    def timed(image: np.ndarray, config: FreedaSettings) -> Regions:
        started = time.perf_counter()
        found = (find or method.find_superpixels)(image, config)
        spent[0] += time.perf_counter() - started
        return found

    segmenter = bench.segmenter(find_regions=timed, settings=config or bench.config)
    vocabulary = segmenter.encode_classes(classes)
    matrix = ConfusionMatrix(len(CLASSES))
    for number in range(_FIRST_SCENE, _FIRST_SCENE + scenes):
        scene = draw_scene(scene_rng("validation", number), 128)
        matrix.add(scene.labels, labelled(segmenter.method, scene.image, vocabulary))
    return 100 * matrix.mean_iou(), 1000 * spent[0] / scenes


def table(bench: Bench, scenes: int) -> Iterator[str]:
    yield "`python benchmarks/toy_variants.py --write`: alternatives measured and left, beside what is used."
    yield f"{scenes} validation scenes, {len(bench.index)} prototypes."
    yield ""
    yield "| superpixels | mIoU | ms per image to find them |"
    yield "|---|---|---|"
    for name, find in region_finders(bench.config):
        miou, milliseconds = evaluate(bench, scenes, find)
        yield f"| {name} | {miou:.1f} | {milliseconds:.0f} |"
    yield ""
    yield from _by_neighbours(bench, scenes)
    yield ""
    yield f"| index of a quarter of the captions, k = {bench.config.neighbors} | mIoU |"
    yield "|---|---|"
    with TemporaryDirectory() as folder:
        quarter = Bench(str(take_quarter(bench.index, Path(folder) / "quarter")))
        for name, margin in (("plain mean of all (the paper's)", 2.0), ("the default", None)):
            config = quarter.config if margin is None else replace(quarter.config, neighbor_margin=margin)
            yield f"| {name} | {evaluate(quarter, scenes, config=config)[0]:.1f} |"
    yield ""
    yield "| choice | mIoU |"
    yield "|---|---|"
    for name, config, classes in options(bench):
        yield f"| {name} | {evaluate(bench, scenes, config=config, classes=classes)[0]:.1f} |"
    changed, count = changed_by_contenders(bench, scenes)
    yield ""
    refined = f"PAMR refines {count:.1f} of {len(CLASSES)} classes per scene"
    yield f"{refined}; refining all changes {changed} pixels."
    yield ""
    yield "| background (things are classes, stuff is not) | constant | mIoU |"
    yield "|---|---|---|"
    for name, config in background_settings(bench.config):
        segmenter = bench.segmenter(settings=config, background=True)
        fixed, best, oracle = evaluate_background(segmenter, "validation", _FIRST_SCENE, scenes)
        shown = "none" if config.background is None else f"{config.background:.2f}"
        yield f"| {name} | {shown} | {fixed:.1f} |"
        yield f"| {name} | {best:.2f} (oracle: chosen by these labels) | {oracle:.1f} |"


def _by_neighbours(bench: Bench, scenes: int) -> Iterator[str]:
    yield f"| class from its {bench.config.neighbors} nearest prototypes, `compactness_weight = 0` | mIoU |"
    yield "|---|---|"
    alone = replace(bench.config, compactness_weight=0.0)
    default = f"plain mean of those within {bench.config.neighbor_margin} of the nearest (the default margin)"
    yield f"| {default} | {evaluate(bench, scenes, config=alone)[0]:.1f} |"
    plain = method.local_scores
    for name, scores in neighbour_scores(bench):
        method.local_scores = scores
        yield f"| {name} | {evaluate(bench, scenes, config=alone)[0]:.1f} |"
    method.local_scores = plain


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=150)
@click.option("--index", default="toy")
@click.option("--write", is_flag=True, help="Also write the tables into benchmarks/RESULTS.md.")
def main(scenes: int, index: str, write: bool) -> None:
    """Prints the tables."""
    head = ["## Variants of the online stage", ""]
    publish("variants", head, table(Bench(index), scenes), write=write)


if __name__ == "__main__":
    main()
