from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from freeda.models.clip import load_clip
from freeda.records import NounSpan
from index_build.generation.textual_keys import textual_keys

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}.", "art of the {}.")


def span(text: str, noun: str) -> NounSpan:
    start = text.index(noun)
    return NounSpan(noun=noun, start=start, end=start + len(noun))


def test_keys_are_unit_vectors_that_differ_by_noun_and_mode(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "a red cat and a dog on the grass"
    spans = [span(text, "cat"), span(text, "dog")]
    keys = {
        mode: textual_keys(clip, [(text, spans)], mode, TEMPLATES)[0]
        for mode in ("context", "template", "blend")
    }
    for pair in keys.values():
        np.testing.assert_allclose(np.linalg.norm(np.stack(pair), axis=1), 1.0, rtol=1e-5)
        assert abs(pair[0] - pair[1]).max() > 1e-3
    blended = keys["context"][0] + keys["template"][0]
    np.testing.assert_allclose(keys["blend"][0], blended / np.linalg.norm(blended), rtol=1e-5)


def test_a_key_in_context_is_read_at_its_own_noun(clip_folder: Path) -> None:
    """Each position of a causal tower knows itself and what stands before it."""
    clip = load_clip([str(clip_folder)], CPU)

    def key(text: str, noun: str) -> np.ndarray:
        ((found,),) = textual_keys(clip, [(text, [span(text, noun)])], "context", TEMPLATES)
        assert found is not None
        return found

    cat = key("a red cat and a dog", "cat")
    np.testing.assert_allclose(key("a red cat on the snow", "cat"), cat, atol=1e-5)  # what follows is unknown
    assert abs(key("a red dog and a cat", "dog") - cat).max() > 1e-2  # not of the token before
    assert abs(key("a blue cat and a dog", "cat") - cat).max() > 1e-3  # nor of the noun alone


def test_a_key_in_context_is_the_mean_of_its_tokens(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "a fire truck near the sea"
    ((found,),) = textual_keys(clip, [(text, [span(text, "fire truck")])], "context", TEMPLATES)
    ids = clip.tokenize([text])
    before, noun = (len(clip.encode(part)) for part in ("a", "fire truck"))
    with torch.inference_mode():
        states = clip.network.forward_intermediates(
            text=ids, text_indices=1, normalize_intermediates=True, intermediates_only=True
        )["text_intermediates"][-1][0]
        own = states[1 + before : 1 + before + noun] @ clip.network.text_projection
    expected = own.mean(0) / own.mean(0).norm()
    assert noun > 1
    np.testing.assert_allclose(found, expected, atol=1e-5)
