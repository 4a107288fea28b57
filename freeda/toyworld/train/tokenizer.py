"""The toy world's own byte-pair encoding, in CLIP's format: every text has tokens, none is unknown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

__all__ = ["MAX_TOKENS", "train_tokenizer"]

MAX_TOKENS = 40
_START, _END, _PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
_MERGES = 520


def train_tokenizer(texts: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learns merges from `texts` and writes a `CLIPTokenizer` to `folder`.

    All 256 bytes are in the vocabulary, inside a word and at its end. The end token has the
    largest id and padding an id of its own, so that "position of the largest id" and "position
    of the end token", the two ways CLIP's text models pool, agree.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [_PAD, *alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = _learn_merges(texts, alphabet)
    symbols += dict.fromkeys(a + b for a, b in merges)
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, _START, _END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(), indent=2))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _learn_merges(texts: Iterable[str], alphabet: list[str]) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + _MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"][:_MERGES]
    return [(a, b) for a, b in merges]


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _PAD,
    }
