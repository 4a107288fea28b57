"""CLIP through open_clip: embeddings of texts, classes, images and patches.

Shapes: `T` texts, `K` width of the joint space, `C` classes, `B` images, `h w` patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch.nn import functional

from freeda.caching import BoundedCache
from freeda.class_names import ClassName
from freeda.models.clip_text import encode_texts, project_tokens, text_lengths
from freeda.models.image_input import Interpolation, resize, standardise
from freeda.models.loading import (
    is_folder,
    load_first,
    prepare,
    repository_of,
    require_weights,
    weights_fingerprint,
)
from freeda.models.tokens import TOKENIZING, Encode, encoder_of

__all__ = ["ClipModel", "load_clip"]

_TEXT_BATCH = 256
_REMEMBERED_CLASSES = 16_384
"""Classes whose embeddings are kept: 32 MB of 512-d vectors."""


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
    weights: str
    _classes: BoundedCache[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = field(
        default_factory=lambda: BoundedCache(_REMEMBERED_CLASSES), init=False, repr=False, compare=False
    )

    def fingerprint(self) -> str:
        """A digest of the weights as they were loaded, whatever they were cast to."""
        return self.weights

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end token included."""
        return int(getattr(self.network, "text", self.network).context_length)

    @property
    def has_start_token(self) -> bool:
        """Whether a text's tokens follow a start token, as those of OpenAI's CLIP and not of SigLIP."""
        return int(self.tokenize(["a"])[0, 0]) != self.encode("a")[0]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, K) float32, not normalised."""
        return self._in_batches(texts, lambda ids: encode_texts(self.network, ids))

    @torch.inference_mode()
    def embed_tokens(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Per text, (L, K) float32: every token's last hidden state after CLIP's final norm and projection.

        L: at least the text's own tokens, start and end token included.
        """
        return list(self._in_batches(texts, lambda ids: project_tokens(self.network, ids), padded=True))

    def _in_batches(
        self, texts: Sequence[str], run: Callable[[torch.Tensor], torch.Tensor], *, padded: bool = False
    ) -> torch.Tensor:
        """What `run` gives for the ids of all texts, texts of similar length together."""
        ids = self.tokenize(list(texts)).to(self.device)
        lengths = text_lengths(self.network, ids)
        order = lengths.argsort(stable=True)
        parts = []
        for rows in order.split(_TEXT_BATCH):
            found = run(ids[rows, : int(lengths[rows].max())]).float()
            if padded:
                found = functional.pad(found, (0, 0, 0, int(lengths.max()) - found.shape[1]))
            parts.append(found)
        return torch.cat(parts)[order.argsort()]

    @torch.inference_mode()
    def embed_classes(self, classes: Sequence[ClassName], templates: Sequence[str]) -> np.ndarray:
        """(C, K) float32 unit vectors: mean of the un-normalised embeddings over templates and
        synonyms, then L2 (FreeDA's released code, with synonyms added).

        The latest classes are kept: one more class costs no more than itself.
        """
        asked = [(item.names, tuple(templates)) for item in classes]
        found = self._classes.find(asked)
        new = list(dict.fromkeys(key for key in asked if key not in found))
        if new:
            prompts = [[t.format(name) for name in names for t in templates] for names, templates in new]
            embedded = self.embed_texts([text for some in prompts for text in some])
            means = [part.mean(0) for part in embedded.split([len(some) for some in prompts])]
            vectors = functional.normalize(torch.stack(means), dim=-1).cpu().numpy()
            found |= dict(zip(new, vectors, strict=True))
            self._classes.keep({key: found[key] for key in new})
        return np.stack([found[key] for key in asked])

    def probabilities(self, image: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(C,) how probable each of some texts is for an image; they sum to 1.

        image: (K,) and texts: (C, K), unit embeddings.
        """
        scaled: torch.Tensor = self.network.logit_scale.exp().float() * (texts @ image)
        return scaled.softmax(0)

    @torch.inference_mode()
    def embed_images(
        self, images: torch.Tensor, interpolation: Interpolation = "antialiased", *, normalize: bool = True
    ) -> torch.Tensor:
        """(B, K) float32 vectors of (B, 3, H, W) RGB images in [0, 1], of unit length unless not to
        `normalize`.

        Images are squashed to CLIP's input size, whatever their aspect (FreeDA's released code).
        """
        embedded = self.network.encode_image(self._inputs(images, interpolation)).float()
        return functional.normalize(embedded, dim=-1) if normalize else embedded

    @torch.inference_mode()
    def embed_patches(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K, h, w) float32 unit vectors: CLIP's own patch features in the joint space of image and text.

        A ViT's tokens pass the image tower's final norm and projection, as its class token does; a ResNet's
        positions pass the values and the projection of its pooling (MaskCLIP, Zhou et al. 2022).
        """
        tower = self.network.visual
        (tokens,) = tower.forward_intermediates(
            self._inputs(images), indices=1, normalize_intermediates=True, intermediates_only=True
        )["image_intermediates"]
        return functional.normalize(_project(tower, tokens).float(), dim=1)

    def _inputs(self, images: torch.Tensor, interpolation: Interpolation = "antialiased") -> torch.Tensor:
        inputs = standardise(resize(images, self.image_size, interpolation), self.mean, self.std)
        return inputs.to(self.device, self.dtype)


def load_clip(ids: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float32) -> ClipModel:
    """Loads `FOLDER`, `ARCHITECTURE@PRETRAINED` or `hf-hub:ORG/NAME` through open_clip."""
    return load_first("CLIP", ids, lambda model_id: _load_clip(model_id, device, dtype))


def _load_clip(model_id: str, device: torch.device, dtype: torch.dtype) -> ClipModel:
    name, _, pretrained = model_id.partition("@")
    require_weights(model_id, "open_clip_model.safetensors", "model.safetensors")
    if is_folder(model_id):
        name, pretrained = f"local-dir:{model_id}", ""
    elif (repository := repository_of(model_id)) is not None:
        name, pretrained = f"hf-hub:{repository}", ""
    elif pretrained not in (known := open_clip.list_pretrained_tags_by_model(name)):
        raise ValueError(f"open_clip has weights {', '.join(known) or 'none'} for '{name}'")
    network, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained or None)
    tokenizer = open_clip.get_tokenizer(name)
    size = network.visual.image_size
    weights = weights_fingerprint(network.state_dict())
    return ClipModel(
        network=prepare(network, device, dtype),
        tokenize=_one_at_a_time(tokenizer),
        encode=_plain_encode(tokenizer),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        mean=tuple(network.visual.image_mean),
        std=tuple(network.visual.image_std),
        device=device,
        dtype=dtype,
        weights=weights,
    )


def _one_at_a_time(tokenizer: Any) -> Callable[[list[str]], torch.Tensor]:
    def tokenize(texts: list[str]) -> torch.Tensor:
        with TOKENIZING:
            ids: torch.Tensor = tokenizer(texts)
        return ids

    return tokenize


def _plain_encode(tokenizer: Any) -> Encode:
    """open_clip's own tokenizer has `encode`; its wrapper of a Hugging Face one holds that one.

    Both clean a text before they encode it: "&amp;" is one sign.
    """
    clean, inner = tokenizer.clean_fn, getattr(tokenizer, "tokenizer", None)
    if inner is not None and not isinstance(inner, torch.nn.Module) and callable(inner):
        encode = encoder_of(inner)
        return lambda text: encode(clean(text))
    return lambda text: tokenizer.encode(clean(text))


def _project(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    if not isinstance(tower, ModifiedResNet):
        return torch.einsum("bdhw,dk->bkhw", tokens, tower.proj)
    values = tower.attnpool.v_proj(tokens.movedim(1, -1))
    return tower.attnpool.c_proj(values).movedim(-1, 1)
