"""The toy CLIP's image tower once more, with its text tower kept as it is (Zhai et al. 2022, "LiT").

Methods that were trained on the texts' embeddings stay valid. The texts are short prompts that name one kind
each. Every image of the batch that shows the kind is a positive of its prompt (Yang et al. 2022, "UniCL"):
with its own scene alone, the others that show it would be driven away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from freeda.models.clip import load_clip
from freeda.toyworld.captions import prompts
from freeda.toyworld.scenes import LABELS
from freeda.toyworld.train.clip import augmented
from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.vocabulary import KINDS
from freeda.training.loop import Plan

__all__ = ["PLAN", "ImageTowerTask"]

PLAN = Plan(steps=20_000, minutes=90, batch=128, learning_rate=5e-4, warmup=200, weight_decay=0.05)


class ImageTowerTask:
    """Contrasts images with prompts of all kinds.

    network: the image tower of `model`.
    """

    name = "clip-images"
    figures: Mapping[str, float] = {}

    def __init__(self, scenes: SceneCache, start: Path, device: torch.device) -> None:
        clip = load_clip([str(start)], device)
        self.model = clip.network
        # On a CPU convolutions are faster with the channels last.
        self.network = self.model.visual.to(memory_format=torch.channels_last).requires_grad_(True)
        self._scale = float(self.model.logit_scale.exp())
        self._texts = [
            functional.normalize(clip.embed_texts(prompts(kind)), dim=-1).to(device) for kind in KINDS
        ]
        self._shown = torch.zeros(len(scenes), len(KINDS))
        for row, content in zip(self._shown, scenes.contents, strict=True):
            row[[LABELS[kind.name] for kind in content.kinds]] = 1
        self._scenes = scenes
        self._device = device

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        images = functional.normalize(
            self.network(augmented(self._scenes, numbers, self._device, rng)), dim=-1
        )
        texts = torch.stack([some[rng.integers(len(some))] for some in self._texts])
        logits = self._scale * images.float() @ texts.T
        shown = self._shown[numbers].to(self._device)
        return (_contrast(logits, shown) + _contrast(logits.T, shown.T)) / 2


def _contrast(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with all positives of a row alike, over the rows that have any."""
    share = positives / positives.sum(1, keepdim=True).clamp(min=1)
    return -(logits.log_softmax(1) * share).sum(1)[positives.any(1)].mean()
