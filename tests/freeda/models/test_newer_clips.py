"""The presets' CLIPs embed as their networks do, and give keys where they can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.models.clip import ClipModel, load_clip
from freeda.presets import load_preset
from freeda.presets.settings import KeyMode, Preset
from freeda.records import Caption, NounSpan, TaggedCaption
from index_build.config import BuildConfig
from index_build.generation.prototypes import build_prototypes, load_models
from index_build.generation.textual_keys import textual_keys
from tests.tiny_clips import SMALL, make_clip

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}.", "art of the {}.")


@pytest.fixture(scope="module")
def clips(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_clip(name, tokenizer, tmp_path_factory.mktemp("clip")) for name in SMALL}


@pytest.fixture(params=SMALL)
def clip(request: pytest.FixtureRequest, clips: dict[str, Path]) -> ClipModel:
    return load_clip([str(clips[request.param])], CPU)


def test_classes_are_embedded_as_the_network_does(clip: ClipModel) -> None:
    prompts = [t.format(name) for name in ("cat", "owl") for t in TEMPLATES]
    with torch.no_grad():
        raw = clip.network.encode_text(clip.tokenize(prompts)).double().numpy()
    found = clip.embed_classes([ClassName("cat", ("owl",)), ClassName("dog")], TEMPLATES)
    np.testing.assert_allclose(found[0], raw.mean(0) / np.linalg.norm(raw.mean(0)), rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_images_are_embedded_as_the_network_does(clip: ClipModel) -> None:
    images = torch.rand(2, 3, *clip.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip.network.encode_image((images - 0.48) / 0.27, normalize=True)
    np.testing.assert_allclose(clip.embed_images(images), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_are_the_softmax_of_the_network_s_own_logits(clip: ClipModel) -> None:
    """Whatever the range of its cosines: SigLIP's are small, its scale large, and it has a bias."""
    image, texts = torch.rand(1, 3, *clip.image_size), clip.tokenize(["a cat", "an owl", "snow"])
    with torch.no_grad():
        logits = clip.network.get_logits((image - 0.48) / 0.27, texts)[0][0]
        embedded = torch.nn.functional.normalize(clip.network.encode_text(texts), dim=-1)
    found = clip.probabilities(clip.embed_images(image)[0], embedded)
    np.testing.assert_allclose(found, logits.softmax(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("preset", "expected"), [(name, name != "sd15-siglip2") for name in SMALL])
def test_who_has_a_start_token(clips: dict[str, Path], preset: str, expected: bool) -> None:
    assert load_clip([str(clips[preset])], CPU).has_start_token == expected


def with_clip(base: Preset, folder: Path, key: KeyMode) -> Preset:
    return replace(
        base,
        models={**base.models, "clip": (str(folder),)},
        localization=replace(base.localization, key=key),
    )


@pytest.mark.parametrize("key", ["context", "blend"])
def test_siglip_gives_no_keys_from_inside_captions(
    clips: dict[str, Path], tiny_preset: Preset, key: KeyMode
) -> None:
    with pytest.raises(ConfigError, match=f'localization.key is "{key}".* choose key = "template"'):
        load_models(with_clip(tiny_preset, clips["sd15-siglip2"], key), "cpu")


@pytest.mark.parametrize("preset", SMALL)
def test_prototypes_are_built_with_it(clips: dict[str, Path], tiny_preset: Preset, preset: str) -> None:
    chosen = with_clip(tiny_preset, clips[preset], load_preset(preset).localization.key)
    models, text = load_models(chosen, "cpu"), "a red cat on the grass"
    spans = (NounSpan(noun="cat", start=6, end=9), NounSpan(noun="grass", start=17, end=22))
    outcome = build_prototypes(
        [TaggedCaption(Caption(id="0", text=text), spans)], models, BuildConfig(preset=chosen)
    )
    assert [item.noun for item in outcome.prototypes] == ["cat", "grass"], outcome.rejects
    width = models.clip.embed_texts([text]).shape[1]
    assert all(item.key.shape == (width,) for item in outcome.prototypes)


@pytest.mark.parametrize("preset", SMALL)
def test_keys_of_nouns(clips: dict[str, Path], tiny_preset: Preset, preset: str) -> None:
    """In the mode of its preset, as a build asks for them."""
    mode = load_preset(preset).localization.key
    clip = load_models(with_clip(tiny_preset, clips[preset], mode), "cpu").clip
    text = "a red cat on the grass"
    spans = [NounSpan(noun="cat", start=6, end=9), NounSpan(noun="grass", start=17, end=22)]
    (keys,) = textual_keys(clip, [(text, spans)], mode, TEMPLATES)
    for key, noun, places in zip(keys, ("cat", "grass"), ([3], [6]), strict=True):
        if mode == "template":
            expected = clip.embed_classes([ClassName(noun)], TEMPLATES)[0]
        else:
            expected = clip.embed_tokens([text])[0][places].mean(0).numpy()
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(key, expected, rtol=1e-4, atol=1e-5)
