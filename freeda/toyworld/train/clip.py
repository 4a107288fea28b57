"""The toy CLIP: image and text towers trained contrastively on scenes and their captions.

The image tower is CLIP's ResNet, which learns from little data and time what a ViT does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer

from freeda.toyworld.train.data import IMAGE_SIZE, SceneCache
from freeda.training.loop import Plan

__all__ = ["PLAN", "ClipTask", "augmented", "save", "tokenizer_of"]

PLAN = Plan(steps=20_000, minutes=92, batch=128, learning_rate=1e-3, warmup=200, weight_decay=0.05)
_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_MENTIONS = 0.5
"""Share of pairs whose text names one thing only, as the class prompts of segmentation do."""
_LOGIT_SCALE_LIMIT = 4.6


class ClipTask:
    """Symmetric InfoNCE (Radford et al. 2021) with flips and small shifts as augmentation."""

    name = "clip"
    figures: Mapping[str, float] = {}

    def __init__(
        self, scenes: SceneCache, tokenizer: CLIPTokenizer, work: Path, device: torch.device
    ) -> None:
        config = work / "clip-config"
        _write_config(tokenizer, config)
        model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{config}", load_weights=False)
        # On a CPU convolutions are faster with the channels last.
        self.network = model.to(device, memory_format=torch.channels_last)
        self._scenes = scenes
        self._captions = _tokenize(tokenizer, scenes.captions)
        self._mentions = _tokenize(tokenizer, scenes.mentions)
        self._device = device

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        images = self.network.encode_image(
            augmented(self._scenes, numbers, self._device, rng), normalize=True
        )
        texts = self.network.encode_text(self._texts(numbers, rng).to(self._device), normalize=True)
        scale = self.network.logit_scale.clamp(max=_LOGIT_SCALE_LIMIT).exp()
        logits = scale * images.float() @ texts.float().T
        target = torch.arange(len(numbers), device=self._device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    def _texts(self, numbers: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        column = rng.integers(0, self._captions.shape[1], len(numbers))
        short = torch.from_numpy(rng.random(len(numbers)) < _MENTIONS)[:, None]
        return torch.where(short, self._mentions[numbers, column], self._captions[numbers, column])


def augmented(
    scenes: SceneCache, numbers: np.ndarray, device: torch.device, rng: np.random.Generator
) -> torch.Tensor:
    """(B, 3, H, W): scenes as CLIP takes them, moved by up to 8 pixels, half of them flipped."""
    pixels = scenes.pixels(numbers, device) / 2 + 0.5
    shift = tuple(int(s) for s in rng.integers(-8, 9, 2))
    pixels = functional.pad(pixels, (8, 8, 8, 8), mode="reflect").roll(shift, (2, 3))[..., 8:-8, 8:-8]
    flips = torch.from_numpy(rng.random(len(numbers)) < 0.5).to(device)
    pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (_MEAN, _STD))
    return (pixels - mean) / std


def save(network: nn.Module, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the folder that open_clip's `local-dir:` loading reads."""
    _write_config(tokenizer, folder)
    state = network.state_dict()
    weights = {n: (v.half() if v.is_floating_point() else v).contiguous() for n, v in state.items()}
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})


def tokenizer_of(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a saved CLIP."""
    return CLIPTokenizer.from_pretrained(folder)


def _write_config(tokenizer: CLIPTokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "patch_size": None,
            "width": 32,
            "layers": [1, 2, 2, 1],
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": tokenizer.model_max_length,
            "vocab_size": len(tokenizer),
            "width": 128,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "toy",
        },
    }
    preprocess = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _tokenize(tokenizer: CLIPTokenizer, texts: list[list[str]]) -> torch.Tensor:
    """(N, texts a scene, tokens) int64."""
    flat = [text for group in texts for text in group]
    ids = tokenizer(flat, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids.reshape(len(texts), -1, tokenizer.model_max_length)
