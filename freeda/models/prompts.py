"""Prompts as a pipeline's text encoders take them: their states, and where a noun lies in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from freeda.models.tokens import TOKENIZING, Encode, encoder_of, noun_token_positions
from freeda.records import NounSpan

__all__ = ["encode_prompts", "prompt_positions", "token_encoder", "token_limit"]

_T5_TOKENS = 256
"""Of a prompt that Stable Diffusion 3 reads; its pipeline's default."""


def encode_prompts(pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """(P, T, D): the states of P prompts; of a pipeline with one text encoder."""
    with TOKENIZING:
        states: torch.Tensor = pipeline.encode_prompt(list(prompts), pipeline.unet.device, 1, False)[0]
    return states


def token_encoder(pipeline: Any) -> Encode:
    """The pipeline's tokenizer as a function from text to ids, without special tokens."""
    return encoder_of(pipeline.tokenizer)


def token_limit(pipeline: Any) -> int:
    """Most tokens of a prompt, start and end token included."""
    return int(pipeline.tokenizer.model_max_length)


def prompt_positions(pipeline: Any, text: str, span: NounSpan) -> tuple[int, ...] | None:
    """Positions of a noun's tokens among those that the denoiser attends to; None where it lies beyond them.

    Stable Diffusion XL's two encoders share their tokens. Stable Diffusion 3 reads CLIP's tokens and then, if
    it was loaded with T5, the same text in T5's: a noun is in both.
    """
    limit = token_limit(pipeline)
    found = noun_token_positions(token_encoder(pipeline), text, span, limit)
    if getattr(pipeline, "text_encoder_3", None) is None:
        return found
    again = noun_token_positions(encoder_of(pipeline.tokenizer_3), text, span, _T5_TOKENS, starts=0)
    both = (*(found or ()), *(limit + place for place in again or ()))
    return both or None
