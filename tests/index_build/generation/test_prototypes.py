from __future__ import annotations

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import index_build.generation.prototypes
import index_build.generation.synthesis
from freeda.models.diffusion import generate
from freeda.presets.settings import Preset, Synthesis
from freeda.records import Caption, TaggedCaption
from index_build.captions.nouns import NounFinder
from index_build.captions.taggers import open_tagger
from index_build.config import BuildConfig, caption_seed
from index_build.generation.prototypes import BuildModels, build_prototypes, load_models


@pytest.fixture(scope="module")
def models(tiny_preset: Preset) -> BuildModels:
    return load_models(tiny_preset, "cpu")


def captions(*texts: str) -> list[TaggedCaption]:
    find_nouns = NounFinder(open_tagger())
    return [
        TaggedCaption(Caption(id=f"c{number}", text=text), tuple(find_nouns(text)))
        for number, text in enumerate(texts)
    ]


TEXTS = ("a cat on the grass", "an owl in the snow", "two dogs and a red bus", "a fish in the sea")


def test_every_noun_ends_as_a_prototype_or_a_reject(models: BuildModels, tiny_preset: Preset) -> None:
    outcome = build_prototypes(captions(*TEXTS), models, BuildConfig(preset=tiny_preset))
    made = {(p.caption_id, p.noun) for p in outcome.prototypes}
    refused = {(r.caption_id, r.noun) for r in outcome.rejects}
    wanted = {("c0", "cat"), ("c0", "grass"), ("c1", "owl"), ("c1", "snow"), ("c2", "dog"), ("c2", "bus")}
    wanted |= {("c3", "fish"), ("c3", "sea")}
    assert made | refused == wanted
    assert not made & refused
    assert made
    assert outcome.images == 4


@pytest.mark.parametrize("coarsest", [8, 2])
def test_a_prototype_is_the_pooled_feature_of_its_own_mask(
    models: BuildModels, tiny_preset: Preset, coarsest: int
) -> None:
    localization = replace(tiny_preset.localization, coarsest=coarsest)
    config = BuildConfig(preset=replace(tiny_preset, localization=localization))
    prototype = build_prototypes(captions(TEXTS[0]), models, config).prototypes[0]
    arguments = ([TEXTS[0]], [[(2,)]], [caption_seed(0, "c0")], tiny_preset.synthesis)
    (picture,) = generate(models.pipeline, *arguments, localization=localization)
    (other,) = generate(
        models.pipeline, *arguments, localization=replace(localization, coarsest=10 - coarsest)
    )
    assert np.abs(picture.noun_maps - other.noun_maps).max() > 1e-4
    noun_map = picture.noun_maps[0].astype(np.float64)
    low, high = noun_map.min(), noun_map.max()
    resized = torch.nn.functional.interpolate(
        torch.from_numpy((noun_map - low) / (high - low))[None, None].float(),
        (64, 64),
        mode="bicubic",
        antialias=True,
    )[0, 0]
    mask = (resized > 0.4).numpy()
    image = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 255
    dense = models.backbone.dense_features(image, 56)[0].numpy()
    tokens = ((np.arange(64) + 0.5) * 4 / 64).astype(int)
    upsampled = dense[:, tokens][:, :, tokens]
    np.testing.assert_allclose(prototype.vector, upsampled[:, mask].mean(1), rtol=1e-4, atol=1e-5)
    assert prototype.area == pytest.approx(mask.mean())
    shown = np.asarray(Image.open(io.BytesIO(prototype.thumbnail)))
    assert shown.shape == (64, 64, 4)
    np.testing.assert_array_equal(shown[..., 3] > 170, mask)


def test_overlapped_stages_change_nothing(
    models: BuildModels, tiny_preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BuildConfig(preset=tiny_preset)
    texts = [*TEXTS, *TEXTS]
    apart = build_prototypes(captions(*texts), models, config, overlap=False)
    pool, more_generated = index_build.generation.prototypes.pool_mask, threading.Event()
    generations = []

    def pool_later(features: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
        assert more_generated.wait(60), "the second batch waits for the first one's features"
        return pool(features, mask)

    def count(*arguments: object, **options: object) -> list:
        generations.append(1)
        if len(generations) > 1:
            more_generated.set()
        return generate(*arguments, **options)

    monkeypatch.setattr(index_build.generation.prototypes, "pool_mask", pool_later)
    monkeypatch.setattr(index_build.generation.synthesis, "generate", count)
    together = build_prototypes(captions(*texts), models, config, overlap=True)
    assert len(generations) == 3
    assert together.rejects == apart.rejects
    assert together.images == apart.images == 8
    assert [p.id for p in together.prototypes] == [p.id for p in apart.prototypes]
    for one, other in zip(together.prototypes, apart.prototypes, strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)
        assert one.thumbnail == other.thumbnail


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_after_generation_is_raised(
    models: BuildModels, tiny_preset: Preset, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(index_build.generation.prototypes, "pool_mask", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        build_prototypes(captions(*TEXTS), models, BuildConfig(preset=tiny_preset), overlap=overlap)


def test_batch_size_does_not_change_a_caption_s_picture(models: BuildModels, tiny_preset: Preset) -> None:
    together = build_prototypes(captions(*TEXTS), models, BuildConfig(preset=tiny_preset))
    alone = replace(tiny_preset, synthesis=replace(tiny_preset.synthesis, batch=1))
    separate = build_prototypes(captions(*TEXTS), models, BuildConfig(preset=alone))
    assert [p.id for p in together.prototypes] == [p.id for p in separate.prototypes]
    for a, b in zip(together.prototypes, separate.prototypes, strict=True):
        np.testing.assert_allclose(a.key, b.key, atol=1e-5)
        np.testing.assert_allclose(a.vector, b.vector, atol=2e-2)


def test_the_diffusion_model_alone_takes_the_preset_s_precision(tiny_preset: Preset) -> None:
    brief = replace(tiny_preset, synthesis=replace(tiny_preset.synthesis, precision="bfloat16"))
    models = load_models(brief, "cpu")
    usual = load_models(tiny_preset, "cpu")
    assert models.fingerprints() == usual.fingerprints()
    assert (models.describe()["precision"], usual.describe()["precision"]) == ("bfloat16", "float32")
    assert {part.dtype for part in (models.pipeline.unet, models.pipeline.vae)} == {torch.bfloat16}
    assert models.clip.dtype == models.backbone.dtype == torch.float32
    outcome = build_prototypes(captions(*TEXTS), models, BuildConfig(preset=brief))
    assert outcome.images == 4
    assert outcome.prototypes
    assert all(np.isfinite(item.vector).all() for item in outcome.prototypes)


def test_nouns_beyond_the_token_limit_are_rejected_with_that_reason(
    models: BuildModels, tiny_preset: Preset
) -> None:
    text = "a cat " + "very " * 45 + "near a dog"
    outcome = build_prototypes(captions(text), models, BuildConfig(preset=tiny_preset))
    assert [(r.noun, r.reason) for r in outcome.rejects] == [("dog", "noun not within the first 40 tokens")]
    assert [p.noun for p in outcome.prototypes] == ["cat"]


def test_pictures_that_are_not_finite_are_rejected(tiny_preset: Preset) -> None:
    broken = load_models(tiny_preset, "cpu")
    with torch.no_grad():
        broken.pipeline.unet.conv_out.bias.fill_(float("nan"))
    outcome = build_prototypes(captions("a cat and a dog"), broken, BuildConfig(preset=tiny_preset))
    assert not outcome.prototypes
    assert {r.reason for r in outcome.rejects} == {"picture is blank"}
    assert len(outcome.rejects) == 2


def test_pictures_need_not_be_square(models: BuildModels) -> None:
    config = Synthesis(height=64, width=128, steps=2, guidance_scale=0.0, batch=2)
    picture = generate(models.pipeline, ["a cat"], [[(2,)]], [3], config)[0]
    assert picture.pixels.shape == (64, 128, 3)
    assert picture.noun_maps.shape == (1, 8, 16)
