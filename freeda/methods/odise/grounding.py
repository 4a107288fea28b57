"""What captions teach: which image goes with which nouns (ODISE, section 3.4).

Shapes: `B` images, `Q` queries, `N` nouns of one caption.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

__all__ = ["NOUNS", "draw_nouns", "gathered", "grounding_loss"]

NOUNS = 8
"""Of a caption, per step."""


def draw_nouns(nouns: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Eight of a caption's nouns, with replacement; none where it has none."""
    return [nouns[int(place)] for place in rng.integers(0, len(nouns), NOUNS)] if nouns else []


def gathered(values: torch.Tensor) -> torch.Tensor:
    """(B, ...) values of all processes, where gradients reach each process's own. Processes with fewer images
    than others are padded with zeros. All must call this.
    """
    from accelerate import PartialState
    from accelerate.utils import pad_across_processes
    from torch.distributed.nn.functional import all_gather

    if PartialState().num_processes == 1:
        return values
    return torch.cat(all_gather(pad_across_processes(values).contiguous()))


def grounding_loss(similarity: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of images and captions.

    similarity: (B, Q, B, N) scaled cosines of every image's queries with every caption's nouns. A noun is as
    present in an image as the queries' similarities, weighted by their softmax over the queries; a caption,
    as its nouns are on average.
    """
    present = (similarity.softmax(1) * similarity).sum(1).mean(-1)
    own = torch.arange(len(present), device=present.device)
    return (functional.cross_entropy(present, own) + functional.cross_entropy(present.T, own)) / 2
