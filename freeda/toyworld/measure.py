"""Measures the toy models on held-out scenes and writes the figures into their model card.

`python -m freeda.toyworld.measure` prints the figures; `--write` also puts them into README.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from more_itertools import chunked

from freeda.class_names import ClassName
from freeda.models.attention import DegenerateMapError, localize
from freeda.models.backbone import Backbone, load_backbone
from freeda.models.clip import load_clip
from freeda.models.diffusion import generate, load_pipeline, noised_noun_maps
from freeda.models.loading import choose_device
from freeda.models.prompts import prompt_positions
from freeda.presets import load_preset
from freeda.presets.settings import Preset
from freeda.records import NounSpan
from freeda.segmentation.regions import pool_regions
from freeda.toyworld.captions import describe
from freeda.toyworld.naming import PatchClassifier, share_named_right
from freeda.toyworld.scenes import LABELS, Scene, draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS, THINGS, Kind

CARD = Path(__file__).parent / "README.md"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
_BATCH = 25
_TIMESTEPS = (100, 300, 500)
_COMPLETION = 0.5


@dataclass(frozen=True)
class Described:
    """A scene with its caption and the place of every kind's first noun in it."""

    scene: Scene
    caption: str
    kinds: tuple[Kind, ...]
    spans: tuple[NounSpan, ...]


def described_scenes(split: str, count: int) -> list[Described]:
    scenes = []
    for number in range(count):
        rng = scene_rng(split, number)
        scene = draw_scene(rng, 128)
        caption = describe(scene, rng)
        found = {kind: span for kind in scene.kinds if (span := _find(kind, caption)) is not None}
        scenes.append(Described(scene, caption, tuple(found), tuple(found.values())))
    return scenes


def attention_iou(preset: Preset, scenes: Sequence[Described], timestep: int) -> dict[str, float]:
    """Mean IoU of thresholded noun maps with the nouns' true masks, for things and for stuff;
    a map without a mask counts 0.
    """
    pipeline = load_pipeline(preset.model_ids("diffusion"), choose_device("cpu"))
    scores: dict[str, list[float]] = {"things": [], "stuff": []}
    for batch in chunked(scenes, _BATCH):
        positions = [
            [prompt_positions(pipeline, item.caption, span) or () for span in item.spans] for item in batch
        ]
        images = _pixels([item.scene for item in batch])
        captions = [item.caption for item in batch]
        maps = noised_noun_maps(
            pipeline,
            images,
            captions,
            positions,
            timestep=timestep,
            seed=0,
            localization=preset.localization,
        )
        for item, noun_maps in zip(batch, maps, strict=True):
            for kind, noun_map in zip(item.kinds, noun_maps, strict=True):
                truth = item.scene.labels == LABELS[kind.name]
                if truth.any():
                    scores[_group(kind)].append(_mask_iou(noun_map, truth, preset))
    return {group: float(np.mean(values)) for group, values in scores.items()}


def retrieval_accuracy(backbone: Backbone, size: int, gallery: int, queries: int) -> dict[str, float]:
    """Share of held-out regions (true masks) whose nearest region among other scenes is of their kind."""
    known, known_labels = region_features(backbone, size, "validation", gallery)
    asked, asked_labels = region_features(backbone, size, "evaluation", queries)
    nearest = known_labels[(asked @ known.T).argmax(1)]
    hits = nearest == asked_labels
    things = asked_labels < len(THINGS)
    return {"things": float(hits[things].mean()), "stuff": float(hits[~things].mean())}


def region_features(
    backbone: Backbone, size: int, split: str, count: int, *, normalize: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(R, D) features of all instances of a split's first scenes, and their (R,) labels."""
    features, labels = [], []
    scenes = [draw_scene(scene_rng(split, number), 128) for number in range(count)]
    for batch in chunked(scenes, _BATCH):
        dense = backbone.dense_features(_pixels(batch), size)
        for scene, feature in zip(batch, dense, strict=True):
            present, compact = np.unique(scene.instances, return_inverse=True)
            features.append(pool_regions(feature, compact.reshape(scene.instances.shape)).numpy())
            labels += [LABELS[scene.kinds[number].name] for number in present]
    stacked = np.concatenate(features)
    if normalize:
        stacked = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return stacked, np.array(labels)


def things_named_right(preset: Preset, backbone: Backbone, per_kind: int) -> dict[str, float]:
    """Share of pictures of a single thing in which a classifier finds that thing: generated from captions of
    held-out scenes, those scenes themselves, and the scenes once encoded and decoded, the best that a
    denoiser's pictures can be.
    """
    size = preset.segmentation.dense_size
    classifier = PatchClassifier.of(backbone, size, *region_features(backbone, size, "validation", 600))
    scenes = single_thing_scenes("evaluation", per_kind)
    named = [LABELS[item.scene.things[0].kind.name] for item in scenes]
    pipeline = load_pipeline(preset.model_ids("diffusion"), choose_device("cpu"))
    found: dict[str, list[int | None]] = {"generated": [], "decoded": [], "true": []}
    for batch in chunked(enumerate(scenes), _BATCH):
        seeds, items = [number for number, _ in batch], [item for _, item in batch]
        captions = [item.caption for item in items]
        drawn = generate(pipeline, captions, [()] * len(items), seeds, preset.synthesis)
        pictures = np.stack([item.pixels for item in drawn]).transpose(0, 3, 1, 2)
        found["generated"] += classifier.things(torch.from_numpy(pictures).float() / 255)
        true = _pixels([item.scene for item in items])
        found["decoded"] += classifier.things(_decoded(pipeline, true))
        found["true"] += classifier.things(true)
    return {kind: share_named_right(things, named) for kind, things in found.items()}


@torch.inference_mode()
def _decoded(pipeline: Any, images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) images in [0, 1], encoded and decoded."""
    latents = pipeline.vae.encode(images * 2 - 1).latent_dist.mode()
    return (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def single_thing_scenes(split: str, per_kind: int) -> list[Described]:
    """As many scenes of every kind of thing, each with nothing else on its ground."""
    wanted = Counter({name: per_kind for name in THINGS})
    scenes: list[Described] = []
    number = 0
    while wanted.total():
        rng = scene_rng(split, number)
        scene = draw_scene(rng, 128)
        number += 1
        if len(scene.things) == 1 and wanted[scene.things[0].kind.name]:
            wanted[scene.things[0].kind.name] -= 1
            scenes.append(Described(scene, describe(scene, rng), (), ()))
    return scenes


def clip_presence(preset: Preset, scenes: Sequence[Described]) -> float:
    """Mean average precision of CLIP's image-text similarity at telling which kinds a scene shows."""
    clip = load_clip(preset.model_ids("clip"), choose_device("cpu"))
    classes = [ClassName(kind.name, kind.synonyms) for kind in KINDS]
    texts = clip.embed_classes(classes, preset.segmentation.templates)
    images = [
        clip.embed_images(_pixels([item.scene for item in batch])).numpy()
        for batch in chunked(scenes, _BATCH)
    ]
    similarity = np.concatenate(images) @ texts.T
    present = np.zeros_like(similarity, bool)
    for row, item in enumerate(scenes):
        present[row, np.unique(item.scene.labels)] = True
    return float(np.mean([_average_precision(s, p) for s, p in zip(similarity, present, strict=True)]))


def _average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    ranked = relevant[np.argsort(-scores)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


def _find(kind: Kind, caption: str) -> NounSpan | None:
    """The longest noun of a kind that the caption holds, as whole words."""
    for name in sorted({*kind.nouns, kind.plural} - {""}, key=len, reverse=True):
        found = re.search(rf"\b{re.escape(name)}\b", caption)
        if found:
            return NounSpan(noun=kind.name, start=found.start(), end=found.end())
    return None


def _mask_iou(noun_map: np.ndarray, truth: np.ndarray, preset: Preset) -> float:
    chosen = preset.localization
    try:
        mask, _ = localize(
            noun_map,
            (truth.shape[0], truth.shape[1]),
            threshold=chosen.threshold,
            min_area=chosen.min_area,
            max_area=chosen.max_area,
            min_peak=chosen.min_peak,
        )
    except DegenerateMapError:
        return 0.0
    return float((mask & truth).sum() / (mask | truth).sum())


def _group(kind: Kind) -> str:
    return "things" if kind.name in THINGS else "stuff"


def _pixels(scenes: Sequence[Scene]) -> torch.Tensor:
    stacked = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return stacked.permute(0, 3, 1, 2).float() / 255


def figures(count: int, diffusion: Path | None = None) -> str:
    """All figures as a Markdown table. diffusion: a pipeline to measure in place of the toy preset's."""
    preset = load_preset("toy")
    if diffusion is not None:
        preset = replace(preset, models={**preset.models, "diffusion": (str(diffusion),)})
    scenes = described_scenes("evaluation", count)
    backbone = load_backbone(preset.model_ids("backbone"), choose_device("cpu"))
    rows = []
    for timestep, share in product(_TIMESTEPS, (0.0, _COMPLETION)):
        chosen = replace(preset, localization=replace(preset.localization, completion=share))
        what = f"attention map{', completed by self-attention,' if share else ''} against true mask"
        name = f"{what}, scene noised to t = {timestep}: mean IoU"
        rows.append((name, attention_iou(chosen, scenes, timestep)))
    accuracy = retrieval_accuracy(backbone, preset.segmentation.dense_size, 2 * count, count)
    rows.append(("nearest region of another scene is of the same kind: share", accuracy))
    lines = [f"Measured on {count} held-out scenes.", "", "| | things | stuff |", "|---|---|---|"]
    lines += [f"| {name} | {values['things']:.3f} | {values['stuff']:.3f} |" for name, values in rows]
    presence = clip_presence(preset, scenes)
    named = things_named_right(preset, backbone, max(1, count // 60))
    lines += [
        "",
        f"A classifier on the backbone finds the right thing in {named['generated']:.1%} of the pictures "
        f"generated from captions of a single thing, in {named['true']:.1%} of the true scenes, and in "
        f"{named['decoded']:.1%} of these once encoded and decoded.",
    ]
    lines += ["", f"CLIP ranks the kinds that a scene shows with a mean average precision of {presence:.3f}."]
    return "\n".join(lines)


@click.command()
@click.option("--scenes", type=int, default=300, show_default=True)
@click.option("--diffusion", type=Path, help="Measure this pipeline in place of the preset's.")
@click.option("--write", is_flag=True, help="Put the figures into the model card.")
def main(scenes: int, diffusion: Path | None, write: bool) -> None:
    """Measures the toy models on held-out scenes."""
    if write and diffusion is not None:
        raise click.UsageError("the model card holds the preset's figures; leave out --write or --diffusion")
    text = figures(scenes, diffusion)
    click.echo(text)
    if write:
        card = CARD.read_text(encoding="utf-8")
        before, after = card.split(_BEGIN)[0], card.split(_END)[1]
        CARD.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
