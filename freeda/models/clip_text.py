"""CLIP's text towers, run no longer than their texts are.

In a causal tower no token sees what comes after it, so that the padding behind the end token changes nothing:
ids may be cut to the longest text. Prompts have about 10 tokens, where the tower is made for 77.

Shapes: `T` texts, `L` tokens, `K` width of the joint space.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, text_global_pool

__all__ = ["encode_texts", "project_tokens", "text_lengths"]


def text_lengths(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """(T,) how many of each text's (T, L) tokens decide its embedding: those up to the end token, or all
    where the tower is not causal.
    """
    if not _is_causal(network):
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    _, pool, end = _pooling(network)
    if pool == "argmax":
        return ids.argmax(1) + 1
    return torch.eq(ids, end or 0).int().argmax(1) + 1


def encode_texts(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """(T, K) embeddings, not normalised, of (T, L) ids; of a causal tower, L may be the longest text's."""
    if not _is_causal(network):
        found: torch.Tensor = network.encode_text(ids)
        return found
    tower, pool, end = _pooling(network)
    pooled = text_global_pool(_hidden_states(tower, ids), ids, pool, eos_token_id=end)
    return _projected(tower, pooled)


def project_tokens(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """(T, L, K): every token's last hidden state after the final norm and the projection."""
    tower = getattr(network, "text", network)
    if _is_causal(network):
        return _projected(tower, _hidden_states(tower, ids))
    intermediates = network.forward_intermediates(
        text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
    )["text_intermediates"]
    return _projected(tower, intermediates[-1][:, : ids.shape[1]])


def _is_causal(network: Any) -> bool:
    """Whether it is a tower of open_clip's whose tokens see only those before them, pooled at the end
    token.
    """
    tower, pool, end = _pooling(network)
    if not isinstance(tower, CLIP | TextTransformer) or tower.attn_mask is None:
        return False
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    return pool == "argmax" or (pool == "eos" and end is not None)


def _pooling(network: Any) -> tuple[Any, str | None, int | None]:
    """The text tower, how it pools tokens, and its end token."""
    if isinstance(network, CLIP):
        return network, network.text_pool_type, network.text_eos_id
    tower = getattr(network, "text", network)
    return tower, getattr(tower, "pool_type", None), getattr(tower, "eos_id", None)


def _hidden_states(tower: Any, ids: torch.Tensor) -> torch.Tensor:
    """(T, L, width): the last hidden states of a causal tower, after the final norm."""
    dtype, length = tower.transformer.get_cast_dtype(), ids.shape[1]
    tokens = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:length].to(dtype)
    hidden: torch.Tensor = tower.transformer(tokens, attn_mask=tower.attn_mask[:length, :length])
    hidden = tower.ln_final(hidden)
    return hidden


def _projected(tower: Any, hidden: torch.Tensor) -> torch.Tensor:
    projection = tower.text_projection
    if projection is None:
        return hidden
    found: torch.Tensor = (
        projection(hidden) if isinstance(projection, torch.nn.Linear) else hidden @ projection
    )
    return found
