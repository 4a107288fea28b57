"""An image's windows: what the models see in them, and their regions' scores.

Shapes: `C` classes, `R` regions, `K` width of a text embedding, `D` width of a dense feature, `h w` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from freeda.records import Regions
from freeda.segmentation.cells import Area, WindowParts
from freeda.segmentation.regions import area_weights, token_shares
from freeda.segmentation.scoring import fuse_scores
from freeda.segmentation.windows import WindowedImage

__all__ = ["EncodedImage", "EncodedWindow", "ScoredWindow"]


@dataclass(frozen=True)
class EncodedWindow:
    """What the models see in a window, whatever the classes.

    regions: superpixels, merged where their features are alike.
    tokens: (h * w, D) dense features.
    grid: (h, w).
    features: (R, D) pooled features.
    vanished: (R,) bool, regions that no token has a share of.
    embedding: (K,) of the whole window by CLIP, of unit length.
    """

    regions: Regions
    tokens: torch.Tensor
    grid: tuple[int, int]
    features: torch.Tensor
    vanished: torch.Tensor
    embedding: torch.Tensor

    @property
    def nbytes(self) -> int:
        return int(self.regions.labels.nbytes + self.tokens.nbytes + self.features.nbytes)

    def feature_at(self, row: int, column: int) -> torch.Tensor:
        """(D,) feature of a pixel's region; of one that vanished, the mean by shares of its pixels."""
        region = self.regions.labels[row, column]
        if not self.vanished[region]:
            return self.features[region]
        return area_weights(self.regions.labels, self.grid)[region].to(self.tokens.device) @ self.tokens


@dataclass(frozen=True)
class EncodedImage:
    """An image with what the models see in each of its windows."""

    windowed: WindowedImage
    windows: tuple[EncodedWindow, ...]

    @property
    def nbytes(self) -> int:
        found = self.windowed
        own = found.pixels.nbytes + found.image.nbytes + sum(item.labels.nbytes for item in found.regions)
        return int(own + sum(window.nbytes for window in self.windows))


@dataclass(frozen=True)
class ScoredWindow:
    """A window with its regions' scores.

    local: (R, C) local scores; of no meaning for regions that vanished.
    patches: (h * w, C) local scores of the tokens; None where no region vanished.
    similarity: (C,) cosine of the window and each class text.
    """

    window: EncodedWindow
    local: torch.Tensor
    patches: torch.Tensor | None
    similarity: torch.Tensor

    @property
    def paths(self) -> dict[str, int]:
        lost = int(self.window.vanished.sum())
        found = {"regions pooled": len(self.window.vanished) - lost, "regions scored by patch": lost}
        filled = self.window.regions.filled
        return {**found, "superpixels where no mask was proposed": filled} if filled else found

    def parts(self, area: Area, local_weight: float) -> WindowParts:
        """Local and global scores together, by region; of a region that vanished, by pixel."""
        rows = self._fused(self.local, local_weight)
        count = len(self.window.vanished)
        parts = self.window.regions.labels.astype(np.int64)
        mixture = sparse.identity(count, np.float32, "csr")
        if self.patches is not None:
            lost = np.flatnonzero(self.window.vanished.cpu().numpy()[parts].ravel())
            parts.reshape(-1)[lost] = count + np.arange(len(lost))
            shares = token_shares(self.window.grid, (parts.shape[0], parts.shape[1]), lost)
            mixture = sparse.block_diag((mixture, shares), "csr")
            rows = np.concatenate([rows, self._fused(self.patches, local_weight)])
        return WindowParts(area, parts, mixture, rows)

    def _fused(self, local: torch.Tensor, local_weight: float) -> np.ndarray:
        return fuse_scores(local, self.similarity, local_weight).cpu().numpy()

    def local_at(self, row: int, column: int) -> torch.Tensor:
        """(C,) local scores of a pixel."""
        labels = self.window.regions.labels
        region = labels[row, column]
        if self.patches is None or not self.window.vanished[region]:
            return self.local[region]
        pixel = np.array([row * labels.shape[1] + column])
        shares = token_shares(self.window.grid, (labels.shape[0], labels.shape[1]), pixel)
        return torch.from_numpy(shares.toarray()[0]).to(self.patches.device) @ self.patches
