"""The dense backbone: a small XCiT whose patch features agree for the same instance in two scenes.

Class names play no part. Masks serve as correspondence only: an instance cut from one scene and
pasted into another must pool to the same feature, whole or in pieces, and differ from the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from freeda.files import replacing
from freeda.models.backbone import Backbone
from freeda.toyworld.train.data import IMAGE_SIZE, SceneCache
from freeda.training.loop import Plan

__all__ = ["PLAN", "DenseTask", "encode_scenes", "save"]

PLAN = Plan(steps=20_000, minutes=88, batch=32, learning_rate=1e-3, warmup=200, weight_decay=0.04)
_ARCHITECTURE = "xcit_nano_12_p16_224"
"""An XCiT (El-Nouby et al. 2021): with its convolutional stem it learns much faster than a plain ViT."""
_MODEL_ARGS: dict[str, Any] = {
    "patch_size": 16,
    "embed_dim": 176,
    "depth": 6,
    "num_heads": 4,
    "cls_attn_layers": 0,
}
_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_TEMPERATURE = 0.1
"""Higher than usual: a low one drives apart whatever is most alike, which here is two of a kind
(Wang & Liu 2021)."""
_FADED = 0.1
"""Share of images that lose all colour."""
_IDS = 8
"""Instance numbers a scene can have; scene b's instance i has the identity b * _IDS + i."""
_PASTED = 3
_MIN_AREA, _MAX_AREA = 0.015, 0.4
"""Share of its scene that an instance should have to be pasted; larger ones only now and then."""
_MIN_TOKENS = 0.6
_ENCODED_SIZE, _ENCODED_BATCH = 192, 32
"""Side in pixels to which a scene is enlarged for its features, as the toy preset does."""


@dataclass
class _View:
    """pixels: (B, 3, H, W) in [0, 1]; identity: (B, H, W) int64."""

    pixels: torch.Tensor
    identity: torch.Tensor


class DenseTask:
    """Contrasts pooled region features between views (InfoNCE with several positives a row)."""

    name = "dense"
    figures: Mapping[str, float] = {}

    def __init__(self, scenes: SceneCache, device: torch.device, start: Backbone | None = None) -> None:
        """start: begins with its weights."""
        network = start.network if start else timm.create_model(_ARCHITECTURE, num_classes=0, **_MODEL_ARGS)
        self.network = network.to(device).requires_grad_(True)
        self._scenes = scenes
        self._device = device

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        views = [_augment(view, generator) for view in self._views(numbers, generator)]
        features = self._features(torch.cat([view.pixels for view in views]))
        identity = torch.cat([view.identity for view in views])
        pooled, owners = _pool_regions(features, identity, len(numbers) * _IDS, generator)
        return _contrast(pooled, owners)

    def _views(self, numbers: np.ndarray, generator: torch.Generator) -> list[_View]:
        pixels = self._scenes.pixels(numbers, torch.device("cpu")) / 2 + 0.5
        instances = torch.from_numpy(self._scenes.instances[numbers].astype(np.int64))
        return [_compose(pixels, instances, generator) for _ in range(2)]

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w) normalised patch features."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        inputs = ((pixels - mean) / std).to(self._device)
        (features,) = self.network.forward_intermediates(
            inputs, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return features.float()


def save(task: DenseTask, folder: Path) -> None:
    """Writes the folder that timm's `local-dir:` loading reads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": _ARCHITECTURE,
        "num_classes": 0,
        "num_features": _MODEL_ARGS["embed_dim"],
        "model_args": _MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, IMAGE_SIZE, IMAGE_SIZE],
            "mean": _MEAN,
            "std": _STD,
            "interpolation": "bicubic",
            "num_classes": 0,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = task.network.state_dict()
    weights = {n: (v.half() if v.is_floating_point() else v).contiguous() for n, v in state.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def encode_scenes(backbone: Backbone, scenes: SceneCache, folder: Path) -> np.ndarray:
    """(N, D, h, w) float16: dense features of every scene, memory-mapped from a file in `folder`.

    They are kept by the backbone's fingerprint, and computed again for another one.
    """
    grid = _ENCODED_SIZE // backbone.patch_size
    path = folder / f"features-{len(scenes)}-{backbone.fingerprint()}.npy"
    if not path.exists():
        shape = (len(scenes), backbone.width, grid, grid)
        with replacing(path) as partial:
            kept = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
            for start in range(0, len(scenes), _ENCODED_BATCH):
                numbers = np.arange(start, min(start + _ENCODED_BATCH, len(scenes)))
                pixels = scenes.pixels(numbers, torch.device("cpu")) / 2 + 0.5
                kept[numbers] = backbone.dense_features(pixels, _ENCODED_SIZE).cpu().numpy()
            kept.flush()
    return np.load(path, mmap_mode="r")


def _uniform(generator: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _affine(
    angle: torch.Tensor, scale: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor, centre: torch.Tensor
) -> torch.Tensor:
    """(B, 2, 3) maps of output to input coordinates: `shift` shows what lies at `centre`."""
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cosine * flip, -sine], 1), torch.stack([sine * flip, cosine], 1)], 1)
    offset = centre - (matrix @ shift[..., None])[..., 0]
    return torch.cat([matrix, offset[..., None]], 2)


def _camera(count: int, generator: torch.Generator) -> torch.Tensor:
    flip = (_uniform(generator, count, 0, 1) < 0.5).float() * 2 - 1
    return _affine(
        _uniform(generator, count, -0.25, 0.25),
        _uniform(generator, count, 0.5, 1.1),
        flip,
        torch.zeros(count, 2),
        _uniform(generator, 2 * count, -0.25, 0.25).view(count, 2),
    )


def _warp(view: _View, matrix: torch.Tensor) -> _View:
    grid = functional.affine_grid(matrix, list(view.pixels.shape), align_corners=False)
    pixels = functional.grid_sample(view.pixels, grid, padding_mode="reflection", align_corners=False)
    identity = functional.grid_sample(
        view.identity[:, None].float(), grid, "nearest", "reflection", align_corners=False
    )
    return _View(pixels, identity[:, 0].long())


def _compose(pixels: torch.Tensor, instances: torch.Tensor, generator: torch.Generator) -> _View:
    """New scenes from old ones: each a whole scene with instances of other scenes pasted on it.

    Every instance so meets other company and another ground in every view: were its surroundings
    the same, features would tell scenes apart instead of things.
    """
    count = len(pixels)
    identity = instances + torch.arange(count)[:, None, None] * _IDS
    order = torch.randperm(count, generator=generator)
    base = _warp(_View(pixels[order], identity[order]), _camera(count, generator))
    colored = _augment(_View(pixels, identity), generator, 0.5)
    for _ in range(_PASTED):
        order = torch.randperm(count, generator=generator)
        source = _View(colored.pixels[order], identity[order])
        base = _paste(base, source, instances[order], order, generator)
    return base


def _paste(
    base: _View,
    source: _View,
    instances: torch.Tensor,
    scenes: torch.Tensor,
    generator: torch.Generator,
) -> _View:
    """One random instance of every source scene, moved, turned and scaled, on top of `base`.

    instances: (B, H, W) of the source; scenes: (B,) the source scenes' numbers in the batch.
    """
    count, height, width = instances.shape
    areas = functional.one_hot(instances, _IDS).sum((1, 2)).float() / (height * width)
    likely = (areas > _MIN_AREA).float() * torch.where(areas < _MAX_AREA, 1.0, 0.02)
    chosen = torch.multinomial(likely, 1, generator=generator)
    mask = (instances == chosen[:, :, None]).float()
    axis = torch.linspace(-1, 1, height)
    total = mask.sum((1, 2))
    centre = torch.stack([(mask.sum(1) @ axis) / total, (mask.sum(2) @ axis) / total], 1)
    flip = (_uniform(generator, count, 0, 1) < 0.5).float() * 2 - 1
    matrix = _affine(
        _uniform(generator, count, -0.4, 0.4),
        _uniform(generator, count, 0.5, 1.7),
        flip,
        _uniform(generator, 2 * count, -0.6, 0.6).view(count, 2),
        centre,
    )
    grid = functional.affine_grid(matrix, [count, 3, height, width], align_corners=False)
    pasted = functional.grid_sample(source.pixels, grid, align_corners=False)
    alpha = functional.grid_sample(mask[:, None], grid, "nearest", align_corners=False)
    identity = scenes[:, None, None] * _IDS + chosen[:, :, None]
    return _View(
        torch.where(alpha > 0.5, pasted, base.pixels),
        torch.where(alpha[:, 0] > 0.5, identity, base.identity),
    )


def _augment(view: _View, generator: torch.Generator, strength: float = 1.0) -> _View:
    """Colour, contrast, blur and noise: what must not matter to a feature."""
    count = len(view.pixels)
    pixels = view.pixels * _uniform(generator, count, 1 - 0.35 * strength, 1 + 0.35 * strength).view(
        -1, 1, 1, 1
    )
    grey = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - grey) * _uniform(generator, count, 0.75, 1.25).view(-1, 1, 1, 1) + grey
    pixels = torch.einsum("bcd,bdhw->bchw", _hue_rotation(count, generator), pixels)
    faded = (_uniform(generator, count, 0, 1) < _FADED).view(-1, 1, 1, 1)
    pixels = torch.where(faded, pixels.mean(1, keepdim=True), pixels)
    blurred = functional.interpolate(
        functional.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear", align_corners=False
    )
    pixels = torch.where((_uniform(generator, count, 0, 1) < 0.4).view(-1, 1, 1, 1), blurred, pixels)
    noise = torch.randn(pixels.shape, generator=generator)
    pixels = pixels + noise * _uniform(generator, count, 0, 0.05).view(-1, 1, 1, 1)
    return _View(pixels.clamp(0, 1), view.identity)


def _hue_rotation(count: int, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, 3) rotations of RGB about the grey axis, mostly small, often any: were colour to be
    trusted, it would tell instances apart at once, and shapes would never be learned.
    """
    angle = torch.randn(count, generator=generator) * 0.35
    wild = _uniform(generator, count, 0, 1) < 0.3
    angle = torch.where(wild, _uniform(generator, count, -math.pi, math.pi), angle)
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cosine, sine = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    return cosine * torch.eye(3) + sine * cross + (1 - cosine) * torch.outer(axis, axis)


def _pool_regions(
    features: torch.Tensor, identity: torch.Tensor, identities: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features of every region and of a random piece of each, with the regions' identities."""
    height, width = features.shape[-2:]
    patch = identity.shape[-1] // width
    tokens = (
        identity.reshape(len(identity), height, patch, width, patch)
        .permute(0, 1, 3, 2, 4)
        .reshape(len(identity), height * width, patch * patch)
    )
    weights = torch.zeros(len(identity), identities, height * width)
    for pixel in range(0, patch * patch, 3):
        weights.scatter_add_(
            1, tokens[..., pixel][:, None], torch.full((len(identity), 1, height * width), 3 / patch**2)
        )
    views, owners = (weights.sum(-1) > _MIN_TOKENS).nonzero(as_tuple=True)
    whole = weights[views, owners]
    pieces = whole * _random_windows(whole, height, width, generator)
    keep = pieces.sum(-1) > _MIN_TOKENS
    regions = torch.cat([whole, pieces[keep]]).to(features.device)
    source = torch.cat([views, views[keep]]).to(features.device)
    flat = features.flatten(2).transpose(1, 2)
    sums = torch.stack([regions[i] @ flat[v] for i, v in enumerate(source.tolist())])
    return functional.normalize(sums, dim=-1), torch.cat([owners, owners[keep]]).to(features.device)


def _random_windows(
    regions: torch.Tensor, height: int, width: int, generator: torch.Generator
) -> torch.Tensor:
    """(R, h * w) masks of a random small window around a random token of every region."""
    centres = torch.multinomial(regions, 1, generator=generator)[:, 0]
    rows, columns = torch.arange(height), torch.arange(width)
    reach = torch.randint(0, 3, (2, len(regions), 1), generator=generator)
    near_row = (rows[None] - centres.div(width, rounding_mode="floor")[:, None]).abs() <= reach[0]
    near_column = (columns[None] - (centres % width)[:, None]).abs() <= reach[1]
    return (near_row[:, :, None] & near_column[:, None, :]).flatten(1).float()


def _contrast(pooled: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """InfoNCE over all rows; rows of the same identity are each other's positives."""
    logits = pooled @ pooled.T / _TEMPERATURE
    same = owners[:, None] == owners[None]
    itself = torch.eye(len(owners), dtype=torch.bool, device=owners.device)
    log_share = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    positives = (same & ~itself).float()
    return -((log_share * positives).sum(1) / positives.sum(1).clamp(min=1)).mean()
