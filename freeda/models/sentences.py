"""Sentence embeddings from a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from freeda.models.inspection import inspect_folder
from freeda.models.loading import choose_device, fetch_safetensors, is_folder, load_first, repository_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Embed", "load_sentence_model"]

Embed = Callable[[list[str]], np.ndarray]
"""(B, D) float32 unit vectors of B texts."""

_ORGANISATION = "sentence-transformers"


def load_sentence_model(name: str, device: str = "auto") -> Embed:
    """A model by folder or hub id; an id without an owner is one of the library's own.

    Raises `ModelNotFoundError`.
    """
    model_id = name if "/" in name or name.startswith((".", "~")) else f"{_ORGANISATION}/{name}"
    torch_device = str(choose_device(device))
    model = load_first("sentence", (model_id,), lambda found: _load(found, torch_device))
    return lambda texts: np.asarray(
        model.encode(texts, normalize_embeddings=True, show_progress_bar=False), np.float32
    )


def _load(model_id: str, device: str) -> SentenceTransformer:
    """A hub's repository is fetched first, without the weights that are not safetensors."""
    from sentence_transformers import SentenceTransformer

    folder = Path(model_id)
    if not is_folder(model_id):
        folder = fetch_safetensors(repository_of(model_id) or model_id)
        inspect_folder(folder)
    return SentenceTransformer(str(folder), device=device, model_kwargs={"use_safetensors": True})
