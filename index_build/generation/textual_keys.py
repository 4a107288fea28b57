"""Textual keys: nouns embedded by CLIP's text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.models.clip import ClipModel
from freeda.models.tokens import noun_token_positions
from freeda.presets.settings import KeyMode
from freeda.records import NounSpan
from freeda.vectors import unit

__all__ = ["Nouns", "require_keys", "textual_keys"]


Nouns = tuple[str, Sequence[NounSpan]]
"""A caption's text and its nouns."""


def textual_keys(
    clip: ClipModel, captions: Sequence[Nouns], mode: KeyMode, templates: Sequence[str]
) -> list[list[np.ndarray | None]]:
    """Per caption, a (K,) float32 unit key per noun, or None where CLIP's tokenizer truncates the caption
    before it.

    mode: "context" is the mean last hidden state of the noun's tokens inside its caption; "template" the noun
        in the prompt templates; "blend" the normalised sum of the two.
    """
    if mode == "template":
        return _isolated_keys(clip, captions, templates)
    contextual = _context_keys(clip, captions)
    if mode == "context":
        return contextual
    isolated = _isolated_keys(clip, captions, templates)
    return [
        [None if key is None else unit(key + other) for key, other in zip(*pair, strict=True)]
        for pair in zip(contextual, isolated, strict=True)
    ]


def require_keys(clip: ClipModel, mode: KeyMode) -> None:
    """Raises `ConfigError` for keys from inside captions where CLIP's text tower gives none."""
    if mode != "template" and not clip.has_start_token:
        raise ConfigError(
            f'localization.key is "{mode}", which takes a noun\'s tokens from its caption, but this CLIP '
            f'embeds whole texts only; choose key = "template"'
        )


def _isolated_keys(clip: ClipModel, captions: Sequence[Nouns], templates: Sequence[str]) -> list[list[Any]]:
    nouns = [ClassName(span.noun) for _, spans in captions for span in spans]
    keys = iter(clip.embed_classes(nouns, templates))
    return [list(islice(keys, len(spans))) for _, spans in captions]


def _context_keys(clip: ClipModel, captions: Sequence[Nouns]) -> list[list[np.ndarray | None]]:
    hidden = clip.embed_tokens([text for text, _ in captions])
    return [
        [_context_key(clip, text, span, states) for span in spans]
        for (text, spans), states in zip(captions, hidden, strict=True)
    ]


def _context_key(clip: ClipModel, text: str, span: NounSpan, hidden: torch.Tensor) -> np.ndarray | None:
    positions = noun_token_positions(clip.encode, text, span, clip.context_length)
    return None if positions is None else unit(hidden[list(positions)].mean(0).cpu().numpy())
