"""Where a noun's tokens are in a tokenised text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

from freeda.records import NounSpan

__all__ = ["TOKENIZING", "Encode", "encoder_of", "noun_token_positions"]

Encode = Callable[[str], Sequence[int]]
"""A tokenizer without special tokens: text to token ids."""
TOKENIZING = RLock()
"""Held while a tokenizer is called: it keeps how it pads as a state that threads would share."""


def encoder_of(tokenizer: Any) -> Encode:
    """A tokenizer of transformers, without its special tokens."""

    def encode(text: str) -> Sequence[int]:
        with TOKENIZING:
            ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    return encode


def noun_token_positions(
    encode: Encode, text: str, span: NounSpan, max_length: int, *, starts: int = 1
) -> tuple[int, ...] | None:
    """Positions of the noun's tokens in the tokenised text, which begins with `starts` special tokens.

    A tokenizer of CLIP or T5 never merges across words, so a prefix that ends at a word border keeps its
    tokens whatever follows; that is checked. None where the noun lies beyond the truncation to `max_length`
    tokens, the special ones and one at the end included, or where the span does not fall on token borders.
    """
    before = list(encode(text[: span.start].rstrip()))  # T5 has a token for a space at the end
    until = list(encode(text[: span.end]))
    whole = list(encode(text))
    if until[: len(before)] != before or whole[: len(until)] != until or len(until) == len(before):
        return None
    if starts + len(until) > max_length - 1:
        return None
    return tuple(range(starts + len(before), starts + len(until)))
