"""ODISE (Xu et al., CVPR 2023): all that is trained, and the frozen models that it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from freeda.methods.odise.captioner import ImplicitCaptioner
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.head import Head, MaskQueries
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.odise.taps import TappedPipeline
from freeda.models.clip import ClipModel

__all__ = ["FrozenModels", "OdiseNetwork"]

_CROPS_AT_ONCE = 4
"""While nothing is learnt: a panorama has many."""


@dataclass(frozen=True)
class FrozenModels:
    """What is never trained. weights: fingerprint of the diffusion model, as it was loaded."""

    diffusion: TappedPipeline
    clip: ClipModel
    weights: str

    @property
    def text_width(self) -> int:
        """Of CLIP's joint space."""
        return int(self.clip.embed_texts([""]).shape[-1])

    def fingerprints(self) -> Mapping[str, str]:
        """By role, of the weights."""
        return {
            "diffusion": self.weights,
            "clip": self.clip.fingerprint(),
        }

    def image_embeddings(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) by CLIP, not normalised, which gradients may be taken through."""
        return self.clip.embed_images(images, normalize=False).clone()


class OdiseNetwork(nn.Module):
    """Captioner and head. The frozen models are not its modules, so that no state of it holds them."""

    def __init__(self, frozen: FrozenModels, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        diffusion, width = frozen.diffusion, frozen.text_width
        self.captioner = (
            ImplicitCaptioner(width, diffusion.text_shape, diffusion.time_width)
            if settings.captioner
            else None
        )
        self.head = Head(diffusion.channels, width, settings)

    def forward(self, frozen: FrozenModels, images: torch.Tensor, grid: CropGrid) -> list[MaskQueries]:
        """Every layer's masks and embeddings of (B, 3, H, W) images in [0, 1], the last layer's last."""
        crops = grid.cut(images)
        parts = crops.split(len(crops) if torch.is_grad_enabled() else _CROPS_AT_ONCE)
        read = zip(*(self._taps(frozen, part) for part in parts), strict=True)
        return self.head([grid.join(torch.cat(taps)) for taps in read], grid.size)

    def _taps(self, frozen: FrozenModels, crops: torch.Tensor) -> list[torch.Tensor]:
        empty = frozen.diffusion.empty_text()
        if self.captioner is None:
            return frozen.diffusion.features(crops, empty.expand(len(crops), -1, -1))
        text, time = self.captioner(frozen.image_embeddings(crops), empty)
        return frozen.diffusion.features(crops, text, time)
