"""Class names as the texts that queries are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from freeda.class_names import ClassName
from freeda.models.clip import ClipModel

__all__ = ["ClassTexts"]


@dataclass(frozen=True)
class ClassTexts:
    """The texts of some classes.

    vectors: (N, K) unit embeddings by CLIP, one per name. owners: (N,) the class of each name.
    count: of classes, C.
    """

    vectors: torch.Tensor
    owners: torch.Tensor
    count: int

    @classmethod
    def of(cls, clip: ClipModel, classes: Sequence[ClassName], templates: Sequence[str]) -> ClassTexts:
        names = [(number, name) for number, item in enumerate(classes) for name in item.names]
        vectors = clip.embed_classes([ClassName(name) for _, name in names], templates)
        owners = torch.tensor([number for number, _ in names])
        return cls(torch.from_numpy(vectors).to(clip.device), owners.to(clip.device), len(classes))

    def by_class(self, values: torch.Tensor) -> torch.Tensor:
        """(..., C + 1): of (..., N + 1) values of names, those of each class's best name; the last column,
        "no object", stays.
        """
        owners = self.owners.expand(*values.shape[:-1], -1)
        best = values.new_full((*values.shape[:-1], self.count), -torch.inf)
        best = best.scatter_reduce(-1, owners, values[..., :-1], "amax")
        return torch.cat([best, values[..., -1:]], -1)
