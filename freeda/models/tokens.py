"""Where a noun's tokens are in a tokenised text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from freeda.records import NounSpan

__all__ = ["Encode", "noun_token_positions"]

Encode = Callable[[str], Sequence[int]]
"""A tokenizer without special tokens: text to token ids."""


def noun_token_positions(
    encode: Encode, text: str, span: NounSpan, max_length: int
) -> tuple[int, ...] | None:
    """Positions of the noun's tokens in the tokenised text; the start token has position 0.

    A CLIP tokenizer never merges across words, so a prefix that ends at a word border keeps its tokens
    whatever follows; that is checked. None where the noun lies beyond the truncation to `max_length` tokens,
    the start and the end token included, or where the span does not fall on token borders.
    """
    before = list(encode(text[: span.start]))
    until = list(encode(text[: span.end]))
    whole = list(encode(text))
    if until[: len(before)] != before or whole[: len(until)] != until or len(until) == len(before):
        return None
    if 1 + len(until) > max_length - 1:
        return None
    return tuple(range(1 + len(before), 1 + len(until)))
