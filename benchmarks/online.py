"""Speed of the online stage at the full-size models' shapes, as ratios measured side by side in one run.

ViT-B/14 at 518 px and CLIP ViT-B/16 with random weights: speed does not depend on what they learned.
Run from the checkout's root: `python benchmarks/online.py [--prototypes 1000000] [--write]`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import open_clip
import timm
import torch
from measuring import PeakMemory, Stopwatch, fastest, machine
from online_classes import by_number_of_classes, class_texts, region_parts
from PIL import Image
from results import publish

from freeda.index.format import KEYS, PROTOTYPES, REJECT_SCHEMA
from freeda.index.reader import PrototypeIndex
from freeda.index.writer import Origin, write_index
from freeda.methods.freeda import FreedaSegmenter
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.backbone import Backbone
from freeda.models.clip import ClipModel
from freeda.models.loading import choose_device, prepare
from freeda.presets import load_preset
from freeda.records import Prototype
from freeda.segmentation.cells import CellScores
from freeda.segmentation.images import read_image
from freeda.segmentation.regions import area_weights
from freeda.segmentation.scoring import fuse_scores, local_scores
from freeda.toyworld.scenes import draw_scene, scene_rng

PRESET = load_preset("sd15-vitb")
CONFIG = PRESET.segmentation
_KEY, _VECTOR = 512, 768
_BATCH = 4
_SIZE = (448, 640)
"""Two windows per image."""
_POOLED_WIDTH, _POOLED_REGIONS = 1024, 300
"""A ViT-L's features, and the regions of a busy window."""
Row = tuple[str, str]


def load_models(device: torch.device) -> tuple[ClipModel, Backbone]:
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch14_dinov2", num_classes=0, dynamic_img_size=True)
    backbone = Backbone(prepare(vit, device, dtype), 14, _VECTOR, (0.5,) * 3, (0.25,) * 3, device, dtype, "")
    network, _, _ = open_clip.create_model_and_transforms("ViT-B-16-quickgelu")
    tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    clip = ClipModel(
        network=prepare(network, device, dtype),
        tokenize=tokenizer,
        encode=tokenizer.encode,
        image_size=(224, 224),
        mean=(0.48,) * 3,
        std=(0.27,) * 3,
        device=device,
        dtype=dtype,
        weights="",
    )
    return clip, backbone


def random_prototypes(count: int) -> Iterator[Prototype]:
    rng = np.random.default_rng(0)
    for start in range(0, count, 4096):
        size = min(4096, count - start)
        keys = rng.standard_normal((size, _KEY), np.float32)
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        vectors = rng.standard_normal((size, _VECTOR), np.float32)
        for row in range(size):
            yield Prototype(
                id=f"{start + row}",
                noun="noun",
                caption_id=f"{start + row}",
                caption="a caption",
                key=keys[row],
                vector=vectors[row],
                area=0.2,
                peak=2.0,
                seed=0,
                thumbnail=b"",
            )


def random_index(folder: Path, count: int, clip: str = "-", backbone: str = "-") -> Path:
    folder.mkdir(parents=True)
    origin = Origin(
        preset=PRESET.as_dict(),
        models={"diffusion": "-", "clip": clip, "backbone": backbone},
        build={},
        build_id="-",
    )
    write_index(folder, random_prototypes(count), REJECT_SCHEMA.empty_table(), count, origin)
    return folder


def draw_images(count: int, folder: Path) -> list[Path]:
    paths = []
    for number in range(count):
        scene = draw_scene(scene_rng("validation", number), _SIZE)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(scene.image).save(paths[-1], quality=95)
    return paths


def bare_backbones(segmenter: FreedaSegmenter, windows: torch.Tensor) -> Callable[[], None]:
    """Nothing but the two models' forward passes on windows (N, 3, H, W), in the segmenter's batches."""

    def run() -> None:
        for start in range(0, len(windows), segmenter.method.batch):
            batch = windows[start : start + segmenter.method.batch]
            segmenter.method.backbone.dense_features(batch, CONFIG.dense_size)
            segmenter.method.clip.embed_images(batch)

    return run


def totals(segmenter: FreedaSegmenter, paths: list[Path], repeats: int) -> Iterator[Row]:
    """Everything over the bare backbones, by the number of classes; a folder over single images."""
    device = segmenter.method.backbone.device
    prepared = [segmenter.method.prepare(read_image(path)) for path in paths]
    windows = torch.stack([item.window(n) for item in prepared for n in range(len(item.areas))])
    bare = bare_backbones(segmenter, windows)
    bare()
    for count in (21, 150):
        classes = [f"class {number}" for number in range(count)]
        segmenter.set_classes(classes)
        list(segmenter.stream(paths[:1]))
        runs: list[Callable[[], object]] = [
            bare,
            lambda: list(segmenter.stream(paths)),
            lambda: [list(segmenter.stream([path])) for path in paths],
        ]
        alone, folder, single = fastest(runs, device, repeats)
        yield f"**{count} classes: all of `segment` / bare backbones**", f"{folder / alone:.2f}"
        yield "bare backbones, s per image", f"{alone / len(paths):.3f}"
        yield "a folder of images, s per image", f"{folder / len(paths):.3f}"
        yield "one image at a time / a folder", f"{single / folder:.2f}"
        for name, spent in stages(segmenter, paths, segmenter.encode_classes(classes)).items():
            yield f"stage by itself: {name}, ms per image", f"{1000 * spent / len(paths):.0f}"


def stages(segmenter: FreedaSegmenter, paths: list[Path], vocabulary: Vocabulary) -> dict[str, float]:
    """Seconds of every stage by itself, one after the other, over all images."""
    watch = Stopwatch(segmenter.method.backbone.device)
    for path in paths:
        with watch("reading and superpixels"):
            item = segmenter.method.prepare(read_image(path))
        windows = torch.stack([item.window(number) for number in range(len(item.areas))])
        with watch("dense backbone"):
            features = segmenter.method.backbone.dense_features(windows, CONFIG.dense_size)
        with watch("CLIP"):
            similarity = segmenter.method.clip.embed_images(windows) @ vocabulary.texts.T
        parts = []
        for number, area in enumerate(item.areas):
            labels = item.regions[number].labels
            with watch("pooling and scoring"):
                fused = score_pooled(features[number], labels, vocabulary.prototypes, similarity[number])
                parts.append(region_parts(area, labels, fused))
        with watch("cells"):
            scores = CellScores.of(parts, (item.image.shape[-2], item.image.shape[-1]))
        with watch("label map"):
            scores.best(_SIZE, slice(0, len(scores)))
    return watch.spent


def score_pooled(
    dense: torch.Tensor, labels: np.ndarray, prototypes: torch.Tensor, image: torch.Tensor
) -> torch.Tensor:
    weights = area_weights(labels, (dense.shape[-2], dense.shape[-1])).to(dense.device)
    return fuse_scores(local_scores(weights @ dense.flatten(1).T, prototypes), image, CONFIG.local_weight)


def score_broadcast(
    dense: torch.Tensor, labels: np.ndarray, prototypes: torch.Tensor, image: torch.Tensor
) -> torch.Tensor:
    """The usual way: every region's mask times all features, then the mean."""
    count, grid = int(labels.max()) + 1, (dense.shape[-2], dense.shape[-1])
    masks = area_weights(labels, grid).reshape(count, 1, *grid).to(dense.device)
    pooled = (masks * dense[None]).sum((2, 3))
    return fuse_scores(local_scores(pooled, prototypes), image, CONFIG.local_weight)


def pooling(device: torch.device, repeats: int) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(_POOLED_WIDTH, 37, 37, generator=generator).to(device)
    prototypes = torch.nn.functional.normalize(torch.randn(150, _POOLED_WIDTH, generator=generator), dim=-1)
    labels = many_regions()
    given = (dense, labels, prototypes.to(device), torch.zeros(150, device=device))
    difference = float((score_pooled(*given) - score_broadcast(*given)).abs().max())
    ours, usual = fastest([lambda: score_pooled(*given), lambda: score_broadcast(*given)], device, repeats)
    count = int(labels.max()) + 1
    yield (
        f"**masks x features / pooling and scoring**, {count} regions of {_POOLED_WIDTH}-d",
        f"{usual / ours:.0f}",
    )
    yield "pooling and scoring, ms", f"{1000 * ours:.1f}"
    yield "largest difference of a score", f"{difference:.0e}"


def many_regions() -> np.ndarray:
    """(448, 448) labels of a grid of regions, about `_POOLED_REGIONS` of them."""
    cells = round(_POOLED_REGIONS**0.5)
    cell = np.arange(448) * cells // 448
    return (cell[:, None] * cells + cell[None]).astype(np.int32)


def retrieval(count: int, work: Path) -> Iterator[Row]:
    """In a process of its own, so that the peak of memory is its own."""
    folder = random_index(work / "large", count)
    command = [sys.executable, __file__, "--retrieve-from", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    first, again, megabytes = (float(value) for value in answer)
    size = sum((folder / name).stat().st_size for name in (KEYS, PROTOTYPES)) / 1e9
    yield f"1,000 classes from {count:,} prototypes (files of {size:.1f} GB), s", f"{first:.1f}"
    yield "the same classes again, s", f"{again:.3f}"
    yield "**peak memory above the mapped files, MB**", f"{megabytes:.0f}"


def retrieve(folder: Path) -> None:
    """Prints seconds of a first and a second retrieval, and the peak of memory that belongs to no file."""
    queries = np.random.default_rng(1).standard_normal((1000, _KEY), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = PrototypeIndex.open(folder)
    with PeakMemory() as peak:
        started = time.perf_counter()
        index.class_prototypes(queries, CONFIG.neighbors)
        first = time.perf_counter() - started
        started = time.perf_counter()
        index.class_prototypes(queries, CONFIG.neighbors)
        again = time.perf_counter() - started
    click.echo(f"{first} {again} {peak.megabytes}")


def table(device: torch.device, images: int, repeats: int, prototypes: int) -> Iterator[str]:
    yield "`python benchmarks/online.py --write`: ViT-B/14 at 518 px and CLIP ViT-B/16 with random weights."
    yield f"{images} drawn images of {_SIZE[1]} x {_SIZE[0]} px, two windows each. {machine(device)}."
    yield "In ratios the runs take turns and the least of each counts; stages and retrieval ran once."
    yield ""
    yield "| | |"
    yield "|---|---|"
    with tempfile.TemporaryDirectory() as name:
        workplace = Path(name)
        clip, backbone = load_models(device)
        folder = random_index(workplace / "small", 2000, clip.fingerprint(), backbone.fingerprint())
        method = FreedaMethod(PrototypeIndex.open(folder), clip, backbone, CONFIG, batch=_BATCH)
        segmenter: FreedaSegmenter = MethodSegmenter(
            method, size_of=lambda image: len(image.areas), kept_bytes=0
        )
        for rows in (
            totals(segmenter, draw_images(images, workplace), repeats),
            by_number_of_classes(method, device, repeats),
            class_texts(clip, CONFIG.templates, device),
            pooling(device, repeats),
            retrieval(prototypes, workplace),
        ):
            for what, value in rows:
                yield f"| {what} | {value} |"


@click.command(context_settings={"show_default": True})
@click.option("--images", type=int, default=4)
@click.option("--repeats", type=int, default=3)
@click.option("--prototypes", type=int, default=1_000_000)
@click.option("--device", default="auto")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
@click.option("--retrieve-from", type=click.Path(path_type=Path), hidden=True)
def main(
    images: int, repeats: int, prototypes: int, device: str, write: bool, retrieve_from: Path | None
) -> None:
    """Prints the table."""
    if retrieve_from:
        retrieve(retrieve_from)
        return
    lines = table(choose_device(device), images, repeats, prototypes)
    publish("online", ["## Speed of the online stage", ""], lines, write=write)


if __name__ == "__main__":
    main()
