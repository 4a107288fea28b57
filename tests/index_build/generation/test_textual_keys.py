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
