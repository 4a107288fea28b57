"""Class names as DiGSeg is told them: a prompt's states, and CLIP's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from more_itertools import chunked

from freeda.class_names import ClassName, shortened
from freeda.errors import ClassNamesError
from freeda.models.clip import ClipModel
from freeda.models.prompts import encode_prompts, token_encoder, token_limit

__all__ = ["QueryTexts"]

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class QueryTexts:
    """Of some names.

    states: (N, T, D) of the prompts by the pipeline's text encoder.
    embeddings: (N, K) unit vectors by CLIP.
    """

    states: torch.Tensor
    embeddings: torch.Tensor

    @classmethod
    def of(
        cls, pipeline: Any, clip: ClipModel, names: Sequence[str], prompt: str, templates: Sequence[str]
    ) -> QueryTexts:
        """Raises `ClassNamesError` for a name that does not fit a prompt."""
        encode, limit = token_encoder(pipeline), token_limit(pipeline)
        for name in names:
            if len(encode(prompt.format(name))) + 2 > limit:
                raise ClassNamesError(
                    f"class name '{shortened(name)}' does not fit a prompt of {limit} tokens; shorten or "
                    f"simplify it"
                )
        with torch.inference_mode():
            prompts = chunked((prompt.format(name) for name in names), _PROMPTS_AT_ONCE)
            states = [encode_prompts(pipeline, some) for some in prompts]
        vectors = clip.embed_classes([ClassName(name) for name in names], templates)
        return cls(torch.cat(states), torch.from_numpy(vectors).to(pipeline.unet.device))

    def __getitem__(self, numbers: Sequence[int] | slice) -> QueryTexts:
        return QueryTexts(self.states[numbers], self.embeddings[numbers])

    def __len__(self) -> int:
        return len(self.states)
