"""The diffusion branch's and CLIP's opinions of a mask's class, as one (ODISE, section 3.5)."""

from __future__ import annotations

import torch

__all__ = ["fuse"]


def fuse(
    diffusion: torch.Tensor, clip: torch.Tensor, clip_share: torch.Tensor, nothing: torch.Tensor
) -> torch.Tensor:
    """(Q, C) probabilities, each row summing to 1 less that of "no object".

    diffusion, clip: (Q, C) log-probabilities of either branch among the classes.
    clip_share: (C,) of CLIP in the geometric mean; it differs between seen and unseen classes.
    nothing: (Q,) probability of "no object", which only the diffusion branch knows of.
    """
    mixed = (1 - clip_share) * diffusion + clip_share * clip
    return mixed.softmax(-1) * (1 - nothing[:, None])
