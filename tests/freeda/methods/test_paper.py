"""The `paper` recipe against the released code's steps, written once more, plainly, in float64 numpy.

From the released code: the image's shorter side is resized by OpenCV's bilinear interpolation, the backbone's
input bilinearly, CLIP's bicubically, none of them antialiased. A class has one name.

The models have the shapes of the real ones (a DINOv2 ViT of patch 14 with registers at 518 pixels,
open_clip's ViT-B/16), fewer layers and random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.segmentation import felzenszwalb
from torch.nn import functional

from freeda.methods.freeda import FreedaSegmenter, load
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets.settings import FreedaSettings, Localization, Preset, Synthesis
from tests.freeda.material import random_prototypes, write_index

CPU = torch.device("cpu")
CLASSES = ("cat", "dog", "sky", "grass", "car")
PROMPTS = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
PROTOTYPES = 500


@pytest.fixture(scope="module")
def clip_b16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip-b16")
    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 2
    statistics = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": statistics})
    )
    torch.manual_seed(0)
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def dinov2_s14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2-s14")
    architecture, arguments = "vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 518}
    statistics = {"input_size": [3, 518, 518], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    config = {"architecture": architecture, "num_classes": 0, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": statistics}))
    torch.manual_seed(1)
    network = timm.create_model(architecture, num_classes=0, **arguments)
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def paper(clip_b16: Path, dinov2_s14: Path, tmp_path_factory: pytest.TempPathFactory) -> FreedaSegmenter:
    preset = Preset(
        name="shapes",
        description="Random weights in the real shapes.",
        models={"diffusion": ("-",), "clip": (str(clip_b16),), "backbone": (str(dinov2_s14),)},
        synthesis=Synthesis(height=512, width=512, steps=1, guidance_scale=1.0),
        localization=Localization(),
        segmentation=FreedaSettings(short_side=448, window=448, stride=224, dense_size=518),
    )
    fingerprints = {
        "diffusion": "-",
        "clip": load_clip(preset.model_ids("clip"), CPU).fingerprint(),
        "backbone": load_backbone(preset.model_ids("backbone"), CPU).fingerprint(),
    }
    folder = tmp_path_factory.mktemp("paper") / "index"
    write_index(folder, random_prototypes(PROTOTYPES, 512, 384), preset, fingerprints)
    return load(folder, recipe="paper", trust_models=True)


@pytest.mark.parametrize("size", [(300, 460), (640, 450)])
def test_the_paper_s_formulas_give_the_same_scores_and_labels(
    paper: FreedaSegmenter, size: tuple[int, int]
) -> None:
    image = photo(*size)
    with_synonyms = ["cat,kitten,tabby", "dog,puppy", *CLASSES[2:]]
    paper.set_classes(with_synonyms)
    vocabulary = paper.encode_classes(with_synonyms)
    expected, vanished = oracle_scores(paper, image)
    assert vanished > 0, "the image should exercise the fall-back"
    np.testing.assert_allclose(paper.method.score_image(image, vocabulary), expected, rtol=0, atol=1e-5)

    enlarged = resize_maps(expected, size, align_corners=False)
    result = paper.segment(image)
    first, second = np.sort(enlarged, axis=0)[[-1, -2]]
    clear = first - second > 2e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result.labels[clear], enlarged.argmax(0)[clear])
    assert result.paths["regions scored by patch"] == vanished


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours with a fine chequered corner, whose superpixels are smaller than a token."""
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    image = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    tiles = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    image[:120, :120] = tiles.repeat(5, 0).repeat(5, 1)
    return image


def oracle_scores(segmenter: FreedaSegmenter, pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """(C, h, w) float64 scores at the working size and how many regions fell back to patches."""
    texts = oracle_texts(segmenter)
    index = segmenter.method.index
    keys = np.stack([index.keys.reconstruct(n) for n in range(PROTOTYPES)]).astype(np.float64)
    vectors = index.vectors(range(PROTOTYPES)).astype(np.float64)
    nearest = np.argsort(-(texts @ keys.T), axis=1)[:, :350]
    prototypes = unit(np.stack([vectors[rows].mean(0) for rows in nearest]))

    scale = 448 / min(pixels.shape[:2])
    height, width = (round(side * scale) for side in pixels.shape[:2])
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    total, visits, vanished = np.zeros((len(CLASSES), height, width)), np.zeros((height, width)), 0
    for top in range(0, height, 224):
        for left in range(0, width, 224):
            top_, left_ = min(top, height - 448), min(left, width - 448)
            if visits[top_ : top_ + 448, left_ : left_ + 448].all() and (top_, left_) != (top, left):
                continue
            window = resized[top_ : top_ + 448, left_ : left_ + 448]
            scores, lost = oracle_window(segmenter, window, texts, prototypes)
            total[:, top_ : top_ + 448, left_ : left_ + 448] += scores
            visits[top_ : top_ + 448, left_ : left_ + 448] += 1
            vanished += lost
    return total / visits, vanished


def oracle_texts(segmenter: FreedaSegmenter) -> np.ndarray:
    network, tokenize = segmenter.method.clip.network, open_clip.get_tokenizer("ViT-B-16")
    embedded = []
    for name in CLASSES:
        with torch.no_grad():
            embedded.append(network.encode_text(tokenize([p.format(name) for p in PROMPTS])).double().mean(0))
    return unit(torch.stack(embedded).numpy())


def oracle_window(
    segmenter: FreedaSegmenter, window: np.ndarray, texts: np.ndarray, prototypes: np.ndarray
) -> tuple[np.ndarray, int]:
    picture = window.astype(np.float32) / 255
    tokens, similarity = oracle_models(segmenter, picture, texts)
    patch_scores = 1 / (1 + np.exp(-(unit(tokens) @ prototypes.T)))
    by_patch = resize_maps(patch_scores.T.reshape(-1, 37, 37), (448, 448), align_corners=True)
    labels = felzenszwalb(picture, scale=100, sigma=0.7, min_size=20, channel_axis=-1)
    local, vanished = np.zeros((len(CLASSES), 448, 448)), 0
    shrink = interpolation(448, 37, align_corners=True)
    for region in range(labels.max() + 1):
        mask = labels == region
        small = (shrink @ mask.astype(np.float64) @ shrink.T).ravel()
        if small.sum() == 0:
            local[:, mask] = by_patch[:, mask]
            vanished += 1
            continue
        feature = unit((small @ tokens / small.sum())[None])[0]
        local[:, mask] = (1 / (1 + np.exp(-(prototypes @ feature))))[:, None]
    return 0.8 * local + 0.2 * similarity[:, None, None], vanished


def oracle_models(
    segmenter: FreedaSegmenter, picture: np.ndarray, texts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(1369, D) patch tokens after the final norm, prefix tokens dropped, and (C,) global cosines."""
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    large = functional.interpolate(image, (518, 518), mode="bilinear")
    small = functional.interpolate(image, (224, 224), mode="bicubic")
    with torch.no_grad():
        dense = segmenter.method.backbone.network.forward_features(
            (large - column(0.485, 0.456, 0.406)) / column(0.229, 0.224, 0.225)
        )
        whole = segmenter.method.clip.network.encode_image(
            (small - column(*open_clip.OPENAI_DATASET_MEAN)) / column(*open_clip.OPENAI_DATASET_STD)
        )
    assert dense.shape == (1, 5 + 37 * 37, 384)
    return dense[0, 5:].double().numpy(), texts @ unit(whole.double().numpy())[0]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(3, 1, 1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def interpolation(source: int, target: int, *, align_corners: bool) -> np.ndarray:
    """(target, source): the matrix of linear interpolation along one axis."""
    matrix = np.zeros((target, source))
    for row in range(target):
        if align_corners:
            centre = row * (source - 1) / (target - 1)
        else:
            centre = min(max((row + 0.5) * source / target - 0.5, 0), source - 1)
        lower = int(centre)
        upper = min(lower + 1, source - 1)
        matrix[row, lower] += 1 - (centre - lower)
        matrix[row, upper] += centre - lower
    return matrix


def resize_maps(maps: np.ndarray, size: tuple[int, int], *, align_corners: bool) -> np.ndarray:
    down, across = (
        interpolation(source, target, align_corners=align_corners)
        for source, target in zip(maps.shape[-2:], size, strict=True)
    )
    return down @ maps @ across.T
