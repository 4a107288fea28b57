"""Textual keys: nouns embedded by CLIP's text encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freeda.class_names import ClassName
from freeda.models.clip import ClipModel
from freeda.models.tokens import noun_token_positions
from freeda.presets.settings import KeyMode
from freeda.records import NounSpan
from freeda.vectors import unit

__all__ = ["textual_keys"]


def textual_keys(
    clip: ClipModel,
    caption: str,
    spans: Sequence[NounSpan],
    mode: KeyMode,
    templates: Sequence[str],
) -> list[np.ndarray | None]:
    """A (K,) float32 unit key per noun, or None where CLIP's tokenizer truncates the caption before it.

    mode: "context" is the mean last hidden state of the noun's tokens inside its caption; "template" the noun
        in the prompt templates; "blend" the normalised sum of the two.
    """
    nouns = [ClassName(span.noun) for span in spans]
    isolated = clip.embed_classes(nouns, templates) if mode != "context" else None
    if mode == "template":
        assert isolated is not None
        return list(isolated)
    contextual = _context_keys(clip, caption, spans)
    if isolated is None:
        return contextual
    return [
        None if key is None else unit(key + other) for key, other in zip(contextual, isolated, strict=True)
    ]


def _context_keys(clip: ClipModel, caption: str, spans: Sequence[NounSpan]) -> list[np.ndarray | None]:
    hidden = clip.embed_tokens([caption])[0]
    keys: list[np.ndarray | None] = []
    for span in spans:
        positions = noun_token_positions(clip.encode, caption, span, len(hidden))
        keys.append(None if positions is None else unit(hidden[list(positions)].mean(0).cpu().numpy()))
    return keys
