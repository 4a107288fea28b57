"""Text towers cut to their texts against the same towers at full length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from freeda.class_names import ClassName
from freeda.models.clip import load_clip
from freeda.models.clip_text import encode_texts, project_tokens, text_lengths

TEXTS = ["a cat", "a photo of the large dog.", "one two three four five six seven eight nine", "cat " * 90]


def tower(name: str, **text: Any) -> tuple[Any, torch.Tensor]:
    """An architecture of open_clip's with two layers and random weights, and the ids of `TEXTS`."""
    config = open_clip.get_model_config(name)
    for part in ("vision_cfg", "text_cfg"):
        config[part]["layers"] = 2
    config["text_cfg"] |= text
    config.pop("multimodal_cfg", None)
    config.pop("custom_text", None) if name == "ViT-B-32" else None
    torch.manual_seed(0)
    made = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    config = {key: value for key, value in config.items() if key not in ("custom_text", "init_logit_bias")}
    network = made(**config).eval().requires_grad_(False)
    return network, open_clip.tokenize(TEXTS)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14"])
def test_causal_towers_need_only_their_texts(name: str) -> None:
    network, ids = tower(name)
    lengths = text_lengths(network, ids)
    assert lengths.tolist() == [4, 9, 11, 77]
    with torch.inference_mode():
        expected = network.encode_text(ids)
        states = network.forward_intermediates(
            text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
        )["text_intermediates"][-1]
        for count in (1, 2, 3):
            short = ids[:count, : int(lengths[:count].max())]
            found = encode_texts(network, short)
            np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-5)
            hidden = project_tokens(network, short)
            whole = states[:count, : short.shape[1]] @ network.text_projection
            np.testing.assert_allclose(hidden, whole, rtol=1e-4, atol=1e-5)


def test_towers_that_see_their_padding_run_at_full_length() -> None:
    config = {"embed_dim": 32, "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8}}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config["vision_cfg"]["image_size"] = 16
    ids = open_clip.tokenize(TEXTS, context_length=16)
    for changes in ({"no_causal_mask": True, "pool_type": "last"}, {"embed_cls": True}):
        torch.manual_seed(0)
        network = open_clip.model.CustomTextCLIP(**config, text_cfg=text | changes).eval()
        assert text_lengths(network, ids).tolist() == [16] * 4
        with torch.inference_mode():
            torch.testing.assert_close(encode_texts(network, ids), network.encode_text(ids))


def test_texts_of_all_lengths_come_back_in_order(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load_clip([str(clip_folder)], torch.device("cpu"))
    texts = [f"a {'red ' * (number * 7 % 11)}cat" for number in range(20)]
    with torch.inference_mode():
        expected = clip.network.encode_text(clip.tokenize(texts)).float()
    monkeypatch.setattr("freeda.models.clip._TEXT_BATCH", 3)
    np.testing.assert_allclose(clip.embed_texts(texts), expected, rtol=1e-4, atol=1e-5)
    for text, states in zip(texts, clip.embed_tokens(texts), strict=True):
        end = int(clip.tokenize([text])[0].argmax())
        np.testing.assert_allclose(states[end], clip.embed_texts([text])[0], rtol=1e-4, atol=1e-5)


def test_a_class_more_embeds_only_itself(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load_clip([str(clip_folder)], torch.device("cpu"))
    templates = ("a photo of a {}.", "art of the {}.")
    classes = [ClassName("cat", ("kitten",)), ClassName("dog")]
    before = clip.embed_classes(classes, templates)
    embedded: list[int] = []
    monkeypatch.setattr(
        "freeda.models.clip.encode_texts", lambda network, ids: _noted(embedded, network, ids)
    )
    after = clip.embed_classes([ClassName("owl"), *classes, ClassName("owl")], templates)
    assert embedded == [2]
    np.testing.assert_array_equal(after[1:3], before)
    np.testing.assert_array_equal(after[0], after[3])
    clip.embed_classes(classes, templates[:1])
    assert embedded == [2, 3]


def test_positions_are_those_of_the_cleaned_text(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], torch.device("cpu"))
    for text in ("a &amp; b &lt;b&gt; a red dog", "  a   cat \n and a dog", "a DOG"):
        ids = clip.tokenize([text])[0]
        encoded = list(clip.encode(text))
        assert ids[1 : 1 + len(encoded)].tolist() == encoded
        assert int(ids.argmax()) == 1 + len(encoded)


def _noted(counts: list[int], network: Any, ids: torch.Tensor) -> torch.Tensor:
    counts.append(len(ids))
    return encode_texts(network, ids)
