"""Scores of classes: region against prototype, image against text, and both together.

Shapes: `C` classes, `R` regions, `D` width.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["fuse_scores", "local_scores"]


def local_scores(
    regions: torch.Tensor, prototypes: torch.Tensor, usual: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """(R, C): sigmoid of the cosine between (R, D) region features and (C, D) unit prototypes
    (FreeDA, eq. 5 and released code).

    usual: (C,), what is taken from the cosines before.
    """
    return torch.sigmoid(functional.normalize(regions, dim=-1) @ prototypes.T - usual)


def fuse_scores(local: torch.Tensor, image_similarity: torch.Tensor, local_weight: float) -> torch.Tensor:
    """(R, C): `local_weight` x local + (1 - `local_weight`) x the (C,) cosine of image and class text
    (FreeDA, eq. 7).

    The sigmoid's slope is at most 1/4, so 0.8 : 0.2 weighs the two cosines about 1 : 1.
    """
    return local_weight * local + (1 - local_weight) * image_similarity
