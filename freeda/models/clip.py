"""Vocabularies, prompt templates, CLIP text embeddings, and where a noun's tokens stand.

Shapes: `T` texts, `L` tokens, `K` width of a key, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch.nn import functional

from freeda.presets.settings import KeyMode
from freeda.errors import ClassNamesError
from freeda.models.loading import fingerprint, is_folder, load_first, prepare
from freeda.class_names import ClassName
from freeda.records import NounSpan

__all__ = [
    "ClipModel",
    "load_clip",
    "noun_token_positions",
    "parse_class_names",
    "parse_classes",
    "textual_keys",
]

_TEXT_BATCH = 256
Encode = Callable[[str], Sequence[int]]
"""A tokenizer without special tokens: text to token ids."""


def parse_classes(classes: str | Sequence[str]) -> tuple[ClassName, ...]:
    """Class names from "cat,kitten; dog", from a list of such entries, or from a text file's path.

    `;` or a line break separates classes, `,` the synonyms of one class. Raises `ClassNamesError`
    for an empty list, an empty name, or a name that stands for two classes.
    """
    entries = _entries(classes)
    parsed = tuple(_parse_entry(entry) for entry in entries)
    if not parsed:
        raise ClassNamesError('no class names given; write them as "cat,kitten; dog; grass"')
    seen: dict[str, str] = {}
    for item in parsed:
        for name in item.names:
            if name.casefold() in seen:
                raise ClassNamesError(
                    f"class name '{name}' is given twice (under '{seen[name.casefold()]}' and "
                    f"'{item.name}'); name it once"
                )
            seen[name.casefold()] = item.name
    return parsed


def parse_class_names(
    classes: str | Sequence[str] | Sequence[ClassName], *, background: bool
) -> tuple[ClassName, ...]:
    """As `parse_classes`, or of class names already parsed; with `background`, a class of that name is
    refused: it is answered anyway.
    """
    entries = (
        classes
        if isinstance(classes, str)
        else [",".join(item.names) if isinstance(item, ClassName) else item for item in classes]
    )
    parsed = parse_classes(entries)
    if background and any(item.name.casefold() == "background" for item in parsed):
        raise ClassNamesError(
            "class 'background' is named while the background channel is on; drop one of the two"
        )
    return parsed


def _entries(classes: str | Sequence[str]) -> list[str]:
    if not isinstance(classes, str):
        return [entry for item in classes for entry in item.rstrip(";").split(";")]
    if classes.endswith(".txt"):
        try:
            classes = Path(classes).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ClassNamesError(f"cannot read class names from '{classes}': {error}") from error
    return [entry for line in classes.splitlines() for entry in line.rstrip(";").split(";") if line.strip()]


def _parse_entry(entry: str) -> ClassName:
    names = [" ".join(name.split()) for name in entry.split(",")]
    if not all(names):
        raise ClassNamesError(f"empty class name in '{entry.strip()}'; remove the stray ',' or ';'")
    return ClassName(names[0], tuple(names[1:]))


@dataclass(frozen=True)
class ClipModel:
    """An open_clip model with its tokenizer and the statistics of its image input."""

    network: Any
    tokenize: Callable[[list[str]], torch.Tensor]
    encode: Encode
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype

    def fingerprint(self) -> str:
        return fingerprint(self.network.state_dict())

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, K) float32, not normalised."""
        parts = [
            self.network.encode_text(self.tokenize(list(texts[start : start + _TEXT_BATCH])).to(self.device))
            for start in range(0, len(texts), _TEXT_BATCH)
        ]
        return torch.cat(parts).float()

    @torch.inference_mode()
    def embed_tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, L, K) float32: every token's last hidden state after CLIP's final norm and projection."""
        ids = self.tokenize(list(texts)).to(self.device)
        tower = getattr(self.network, "text", self.network)
        intermediates = self.network.forward_intermediates(
            text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
        )["text_intermediates"]
        hidden = intermediates[-1][:, : ids.shape[1]]
        projection = tower.text_projection
        if projection is None:
            return hidden.float()
        projected = projection(hidden) if isinstance(projection, torch.nn.Linear) else hidden @ projection
        return projected.float()

    @torch.inference_mode()
    def embed_classes(self, classes: Sequence[ClassName], templates: Sequence[str]) -> np.ndarray:
        """(C, K) float32 unit vectors: mean of the un-normalised embeddings over templates and
        synonyms, then L2 (FreeDA's released code, with synonyms added).
        """
        prompts = [t.format(name) for item in classes for name in item.names for t in templates]
        embedded = self.embed_texts(prompts)
        sizes = [len(item.names) * len(templates) for item in classes]
        means = torch.stack([part.mean(0) for part in embedded.split(sizes)])
        return functional.normalize(means, dim=-1).cpu().numpy()


def load_clip(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> ClipModel:
    """Loads `FOLDER`, `ARCHITECTURE@PRETRAINED` or `hf-hub:ORG/NAME` through open_clip."""
    return load_first("CLIP", ids, lambda model_id: _load_clip(model_id, device, dtype))


def _load_clip(model_id: str, device: torch.device, dtype: torch.dtype) -> ClipModel:
    name, _, pretrained = model_id.partition("@")
    if is_folder(model_id):
        name, pretrained = f"local-dir:{model_id}", ""
    network, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained or None)
    tokenizer = open_clip.get_tokenizer(name)
    size = network.visual.image_size
    return ClipModel(
        network=prepare(network, device, dtype),
        tokenize=tokenizer,
        encode=_plain_encode(tokenizer),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(network.visual.image_mean),
        std=tuple(network.visual.image_std),
        device=device,
        dtype=dtype,
    )


def _plain_encode(tokenizer: object) -> Encode:
    """open_clip's own tokenizer has `encode`; its wrapper of a Hugging Face one holds that one."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None and not isinstance(inner, torch.nn.Module) and callable(inner):
        return lambda text: inner(text, add_special_tokens=False).input_ids
    return tokenizer.encode  # type: ignore[attr-defined]


def noun_token_positions(
    encode: Encode, text: str, span: NounSpan, max_length: int
) -> tuple[int, ...] | None:
    """Where the noun's tokens stand in the tokenised text, the start token being position 0.

    A CLIP tokenizer never merges across words, so a prefix that ends at a word border keeps its
    tokens whatever follows; that is checked. None where the noun lies beyond the truncation to
    `max_length` tokens (which keeps one place each for the start and the end token), or where
    the span does not fall on token borders.
    """
    before = list(encode(text[: span.start]))
    until = list(encode(text[: span.end]))
    whole = list(encode(text))
    if until[: len(before)] != before or whole[: len(until)] != until or len(until) == len(before):
        return None
    if 1 + len(until) > max_length - 1:
        return None
    return tuple(range(1 + len(before), 1 + len(until)))


def textual_keys(
    clip: ClipModel,
    caption: str,
    spans: Sequence[NounSpan],
    mode: KeyMode,
    templates: Sequence[str],
) -> list[np.ndarray | None]:
    """One (K,) float32 unit key a noun, or None where CLIP's own tokenizer cut the noun off.

    context: mean hidden state of the noun's tokens inside its caption; template: the noun in the
    prompt templates; blend: the normalised sum of the two unit vectors.
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
        None if key is None else _unit(key + alone) for key, alone in zip(contextual, isolated, strict=True)
    ]


def _context_keys(clip: ClipModel, caption: str, spans: Sequence[NounSpan]) -> list[np.ndarray | None]:
    hidden = clip.embed_tokens([caption])[0]
    keys: list[np.ndarray | None] = []
    for span in spans:
        positions = noun_token_positions(clip.encode, caption, span, len(hidden))
        keys.append(None if positions is None else _unit(hidden[list(positions)].mean(0).cpu().numpy()))
    return keys


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
