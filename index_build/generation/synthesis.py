"""Images of captions, with a cross-attention map per noun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freeda.models.diffusion import generate
from freeda.models.prompts import prompt_positions, token_limit
from freeda.presets.settings import Localization, Synthesis
from freeda.records import Caption, NounSpan, Reject, SyntheticImage

__all__ = ["Illustrated", "TokenizedCaption", "illustrate", "is_blank", "tokenize"]


@dataclass(frozen=True)
class TokenizedCaption:
    """A caption with its nouns. positions: of each noun's tokens in the pipeline's tokenizer."""

    caption: Caption
    spans: tuple[NounSpan, ...]
    positions: tuple[tuple[int, ...], ...]
    seed: int


@dataclass(frozen=True)
class Illustrated:
    """A caption and its generated picture."""

    source: TokenizedCaption
    picture: SyntheticImage


def tokenize(
    pipeline: Any, caption: Caption, spans: Sequence[NounSpan], seed: int
) -> tuple[TokenizedCaption | None, list[Reject]]:
    """Finds every noun's tokens; None where no noun lies within the pipeline's token limit."""
    kept, positions, rejects = [], [], []
    for span in spans:
        found = prompt_positions(pipeline, caption.text, span)
        if found is None:
            reason = f"noun not within the first {token_limit(pipeline)} tokens"
            rejects.append(Reject(caption_id=caption.id, caption=caption.text, noun=span.noun, reason=reason))
        else:
            kept.append(span)
            positions.append(found)
    if not kept:
        return None, rejects
    return TokenizedCaption(caption, tuple(kept), tuple(positions), seed), rejects


def illustrate(
    pipeline: Any, captions: Sequence[TokenizedCaption], config: Synthesis, localization: Localization
) -> Iterator[list[Illustrated]]:
    """Generates batch by batch, in order."""
    for start in range(0, len(captions), config.batch):
        batch = captions[start : start + config.batch]
        pictures = generate(
            pipeline,
            [item.caption.text for item in batch],
            [item.positions for item in batch],
            [item.seed for item in batch],
            config,
            localization=localization,
        )
        yield [Illustrated(item, picture) for item, picture in zip(batch, pictures, strict=True)]


def is_blank(picture: SyntheticImage) -> bool:
    """Whether an image has one colour only, as safety checkers and overflows leave it."""
    return bool(np.ptp(picture.pixels) == 0)
