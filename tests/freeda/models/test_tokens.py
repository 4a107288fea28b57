from __future__ import annotations

import logging
from pathlib import Path

import open_clip
import pytest
import torch
from transformers import CLIPTokenizer

from freeda.models.clip import load_clip
from freeda.models.tokens import encoder_of, noun_token_positions
from freeda.records import NounSpan

CPU = torch.device("cpu")


def span(text: str, noun: str) -> NounSpan:
    start = text.index(noun)
    return NounSpan(noun=noun, start=start, end=start + len(noun))


def test_token_positions_point_at_the_noun(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "two zebras, a fire truck and a kitten on grass"
    ids = clip.tokenize([text])[0]
    for noun in ("zebras", "fire truck", "kitten", "grass"):
        positions = noun_token_positions(clip.encode, text, span(text, noun), len(ids))
        assert positions is not None
        assert ids[list(positions)].tolist() == list(clip.encode(noun))


def test_token_positions_with_open_clip_s_own_tokenizer() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    text = "A photograph of unbelievably fluffy kittens beside a fire truck."
    ids = tokenizer([text])[0]
    for noun in ("kittens", "fire truck"):
        positions = noun_token_positions(tokenizer.encode, text, span(text, noun), 77)
        assert positions is not None
        assert ids[list(positions)].tolist() == tokenizer.encode(noun)


def test_a_noun_cut_off_by_truncation_has_no_position(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    limit = clip.tokenize(["x"]).shape[1]
    words = limit - 3
    fits = "cat " * words + "dog"
    cut = "cat " * (words + 1) + "dog"
    assert noun_token_positions(clip.encode, fits, span(fits, "dog"), limit) == (limit - 2,)
    assert noun_token_positions(clip.encode, cut, span(cut, "dog"), limit) is None


def test_a_long_text_is_counted_without_a_warning_of_indexing_errors(
    tokenizer: CLIPTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer.save_pretrained(tmp_path)
    fresh = CLIPTokenizer.from_pretrained(tmp_path)  # each warns once
    text = " ".join(["cat"] * (fresh.model_max_length + 1))
    assert len(encoder_of(fresh)(text)) == fresh.model_max_length + 1
    assert not caplog.records
    fresh(text)
    assert "longer than the specified maximum" in caplog.text
