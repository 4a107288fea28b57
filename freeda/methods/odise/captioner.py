"""The implicit captioner: an image's CLIP embedding in place of a caption (ODISE, section 3.2)."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ImplicitCaptioner"]


class ImplicitCaptioner(nn.Module):
    """Text states and an addition to the time embedding, made of an image's embedding.

    Both begin as the empty text and as nothing: their gates, tanh(a), start at a = 0.

    Shapes: `K` width of the image embedding, `T D` tokens and width of text states, `E` width of the time
    embedding.
    """

    def __init__(self, image_width: int, text_shape: tuple[int, int], time_width: int) -> None:
        super().__init__()
        tokens, width = text_shape
        self.text = nn.Linear(image_width, width)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.text_gate = nn.Parameter(torch.zeros(()))
        self.time = nn.Linear(image_width, time_width)
        self.time_gate = nn.Parameter(torch.zeros(()))

    def forward(self, embedding: torch.Tensor, empty: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, D) text states and (B, E) additions to the time embedding.

        embedding: (B, K) by CLIP, not normalised. empty: (1, T, D) states of the empty text.
        """
        said = self.text(embedding)[:, None] + self.positions
        text = empty + torch.tanh(self.text_gate) * said
        return text, torch.tanh(self.time_gate) * self.time(embedding)
