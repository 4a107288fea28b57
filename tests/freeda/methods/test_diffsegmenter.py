from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from freeda.errors import ClassNamesError, ConfigError
from freeda.methods.diffsegmenter import DiffSegmenter, load
from freeda.methods.diffsegmenter.maps import weighted_attention
from freeda.models.attention import NounMaps, capture_cross_attention, capture_self_attention
from freeda.models.diffusion import load_pipeline, noise_latents
from freeda.presets.settings import Preset
from tests.freeda.methods.contract import MethodContract, picture

CPU = torch.device("cpu")


@pytest.fixture
def diffsegmenter(tiny_preset: Preset) -> DiffSegmenter:
    segmenter = load(preset=tiny_preset)
    segmenter.method.settings = replace(segmenter.method.settings, presence=0.0)
    with torch.no_grad():
        for name, weight in segmenter.method.pipeline.unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight *= 4  # random layers attend almost evenly: stretched to [0, 1], noise remains
    return segmenter


class TestDiffSegmenter(MethodContract):
    @pytest.fixture
    def segmenter(self, diffsegmenter: DiffSegmenter) -> DiffSegmenter:
        return diffsegmenter


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_mean_self_attention_is_the_layers_own(any_pipeline_folder: Path, version: str) -> None:
    """Against diffusers' own probabilities, taken from the inputs that the layers were called with."""
    pipeline = load_pipeline((str(any_pipeline_folder),), CPU)
    unet, latents = pipeline.unet, torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    states, steps = torch.randn(2, 10, 32), torch.tensor([100, 100])
    expected = []

    def note(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == 48:
            query, key = (module.head_to_batch_dim(p(hidden)) for p in (module.to_q, module.to_k))
            scores = module.get_attention_scores(query, key)
            expected.append(scores.unflatten(0, (2, module.heads)).mean(1))

    layers = [m for name, m in unet.named_modules() if name.endswith("attn1")]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    with torch.no_grad(), capture_self_attention(unet, (8, 6), 2) as held:
        captured = unet(latents, steps, states).sample
    for hook in hooks:
        hook.remove()
    assert len(expected) == 3
    heads = [layer.heads for layer in layers]
    assert held.calls == len(expected) * heads[0]
    np.testing.assert_allclose(held.mean(), torch.stack(expected).mean(0), atol=1e-6)
    np.testing.assert_allclose(held.mean().sum(-1), 1, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(unet(latents, steps, states).sample, captured)


def test_both_captures_work_at_once_and_leave_the_unet_as_it_was(pipeline_folder: Path) -> None:
    unet = load_pipeline((str(pipeline_folder),), CPU).unet
    before = dict(unet.attn_processors)
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 10, 32)
    with capture_cross_attention(unet, [[[2]]]) as cross, capture_self_attention(unet, (8, 8), 1) as own:
        unet(latents, 5, states)
    assert set(cross.layers) == {(8, 8), (4, 4), (2, 2), (1, 1)}
    assert own.calls > 0
    assert unet.attn_processors == before


PAPER = (0.3, 0.5, 0.1, 0.1)


def test_weights_belong_to_grids_of_8_16_32_and_64() -> None:
    rng = np.random.default_rng(0)
    grids = {(8, 8): 0.3, (16, 16): 0.5, (31, 31): 0.1, (60, 60): 0.1}
    values = {grid: rng.random((2, *grid)).astype(np.float32) for grid in grids}
    maps = NounMaps([1, 1])
    for grid, array in values.items():
        maps.totals[grid] = torch.from_numpy(2 * array.reshape(2, -1, 1))
        maps.layers[grid] = 2
    found = weighted_attention(maps, PAPER, (64, 64))
    expected = np.zeros((2, 64, 64))
    for grid, weight in grids.items():
        for image in range(2):
            large = _enlarge(values[grid][image], 64)
            expected[image] += weight * (large - large.min()) / (large.max() - large.min())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_several_classes_of_one_prompt_have_a_map_each() -> None:
    values = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(0))
    maps = NounMaps([2, 1], {(4, 4): values.clone()}, {(4, 4): 1})
    found = weighted_attention(maps, PAPER, (4, 4))
    for place, (prompt, column) in enumerate(((0, 0), (0, 1), (1, 0))):
        wanted = values[prompt, :, column].reshape(4, 4)
        wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
        np.testing.assert_allclose(found[place], wanted, atol=1e-5)


def test_a_flat_map_says_nothing() -> None:
    rng = np.random.default_rng(0)
    peaked = torch.from_numpy(rng.random((1, 8, 8), np.float32))
    totals = {(8, 8): peaked.reshape(1, 64, 1), (64, 64): torch.full((1, 4096, 1), 0.1)}
    maps = NounMaps([1], totals, {(8, 8): 1, (64, 64): 3})
    stretched = (peaked - peaked.min()) / (peaked.max() - peaked.min())
    np.testing.assert_allclose(weighted_attention(maps, PAPER, (8, 8)), stretched * 0.3 / 0.4, atol=1e-6)


def _enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """Linear interpolation along both axes, half-pixel centres."""
    at = (np.arange(side) + 0.5) * len(values) / side - 0.5
    rows = np.stack([np.interp(at, np.arange(len(values)), column) for column in values.T], 1)
    return np.stack([np.interp(at, np.arange(len(values)), row) for row in rows])


def test_class_tokens_are_moved_away_from_an_empty_text_s(diffsegmenter: DiffSegmenter) -> None:
    prompts = diffsegmenter.encode_classes("cat;fire truck").prompts
    pipeline = diffsegmenter.method.pipeline
    prompt = "a photograph of a fire truck"
    with torch.no_grad():
        plain, _ = pipeline.encode_prompt([prompt], CPU, 1, False)
        empty, _ = pipeline.encode_prompt([""], CPU, 1, False)
    ids = pipeline.tokenizer(prompt).input_ids
    last = len(ids) - 2
    assert prompts.positions[1] == (last,)
    words = len(pipeline.tokenizer("fire truck", add_special_tokens=False).input_ids)
    expected = plain[0].clone()
    for place in range(last - words + 1, last + 1):
        expected[place] = empty[0, place] + 1.21 * (plain[0, place] - empty[0, place])
    torch.testing.assert_close(prompts.states[1], expected)
    assert not torch.allclose(expected[last], 1.21 * plain[0, last], atol=1e-2)


def test_joint_prompts_name_as_many_classes_as_fit(diffsegmenter: DiffSegmenter) -> None:
    method = diffsegmenter.method
    method.settings = replace(method.settings, prompts="joint", batch=1)
    names = [f"{word} truck" for word in ("red", "fire", "old", "small", "toy", "big", "blue") * 4]
    classes = diffsegmenter.encode_classes([f"{name} {number}" for number, name in enumerate(names)])
    batches = list(method._batches(classes, list(range(len(names)))))
    assert 1 < len(batches) < len(names)
    counts = [len(batch.positions[0]) for batch in batches]
    assert sum(counts) == len(names)
    prompt = "a photograph of a " + ", a ".join(item.name for item in classes.classes[: counts[0]])
    ids = method.pipeline.tokenizer(prompt).input_ids
    assert batches[0].positions[0][-1] == len(ids) - 2
    assert len(ids) <= method.pipeline.tokenizer.model_max_length
    more = f"{prompt}, a {classes.classes[counts[0]].name}"
    assert len(method.pipeline.tokenizer(more).input_ids) > method.pipeline.tokenizer.model_max_length
    calls = []
    hook = method.pipeline.unet.register_forward_hook(lambda *call: calls.append(1))
    scores, present = method.score_image(picture(64, 64), classes)
    hook.remove()
    assert (len(present), scores.shape[0], len(calls)) == (len(names), len(names), len(batches))
    assert float(scores.min()) >= 0


def test_presence_weighs_maps_by_a_power_of_clip_s_probability(diffsegmenter: DiffSegmenter) -> None:
    method, classes = diffsegmenter.method, diffsegmenter.encode_classes("cat;dog;grass")
    plain, _ = method.score_image(picture(64, 64), classes)
    method.settings = replace(method.settings, presence_power=0.5)
    weighted, _ = method.score_image(picture(64, 64), classes)
    (encoded,) = method.encode_images([picture(64, 64)])
    probability = method.presence(encoded.embedding, classes)
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(weighted, plain * probability.sqrt()[:, None, None])


def test_scores_do_not_depend_on_the_batch_and_the_image_is_encoded_once(
    diffsegmenter: DiffSegmenter,
) -> None:
    vocabulary = diffsegmenter.encode_classes("cat;dog;grass;sky;bus")
    calls = []
    hooks = [
        part.register_forward_hook(lambda module, args, output, name=name: calls.append(name))
        for name, part in (
            ("encoder", diffsegmenter.method.pipeline.vae.encoder),
            ("unet", diffsegmenter.method.pipeline.unet),
        )
    ]
    together, present = diffsegmenter.method.score_image(picture(64, 64), vocabulary)
    assert (calls.count("encoder"), calls.count("unet"), present) == (1, 2, [0, 1, 2, 3, 4])
    for hook in hooks:
        hook.remove()
    diffsegmenter.method.settings = replace(diffsegmenter.method.settings, batch=1)
    alone, _ = diffsegmenter.method.score_image(picture(64, 64), vocabulary)
    np.testing.assert_allclose(together, alone, atol=2e-4)
    assert float(together.min()) == 0
    assert float(together.max()) == 1


def test_every_class_sees_the_same_noise(diffsegmenter: DiffSegmenter) -> None:
    image = torch.rand(1, 3, 64, 64)
    seen = []
    hook = diffsegmenter.method.pipeline.unet.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    diffsegmenter.segment(picture(64, 64), "cat;dog;grass;sky;bus")
    hook.remove()
    latents = torch.cat(seen)
    assert len(latents) == 5
    assert all(torch.equal(one, latents[0]) for one in latents)
    first, other = (noise_latents(diffsegmenter.method.pipeline, image, timestep=100, seed=s) for s in (0, 1))
    assert not torch.equal(first, other)


def test_images_are_noised_to_the_paper_s_timestep_and_denoised_from_there(
    diffsegmenter: DiffSegmenter,
) -> None:
    seen = []
    pipeline = diffsegmenter.method.pipeline
    hook = pipeline.unet.register_forward_pre_hook(lambda module, args: seen.append(args[:2]))
    image = picture(64, 64)
    diffsegmenter.segment(image, "cat")
    diffsegmenter.method.settings = replace(diffsegmenter.method.settings, timestep=900)
    diffsegmenter.segment(image, "cat")
    hook.remove()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        clean = pipeline.vae.encode(pixels * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    noises = []
    for (latents, steps), timestep in zip(seen, (100, 900), strict=True):
        assert steps.tolist() == [timestep]
        noises.append((latents - kept[timestep].sqrt() * clean) / (1 - kept[timestep]).sqrt())
    torch.testing.assert_close(noises[0], noises[1], atol=1e-2, rtol=1e-2)
    assert 0.8 < float(noises[0].std()) < 1.2


def test_classes_that_clip_rules_out_are_never_predicted(diffsegmenter: DiffSegmenter) -> None:
    vocabulary = diffsegmenter.encode_classes("cat;dog;grass;sky")
    diffsegmenter.method.settings = replace(diffsegmenter.method.settings, presence=1.0)
    (encoded,) = diffsegmenter.method.encode_images([picture(50, 70)])
    probability = diffsegmenter.method.presence(encoded.embedding, vocabulary)
    assert diffsegmenter.method._present(probability) == [int(probability.argmax())]
    diffsegmenter.set_classes("cat;dog;grass;sky")
    result = diffsegmenter.segment(picture(50, 70))
    assert len(np.unique(result.labels)) == 1
    assert result.paths == {"classes looked for": 1, "classes left out": 3}


def test_background_takes_what_scores_below_it(tiny_preset: Preset) -> None:
    segmenter = load(preset=tiny_preset, background=True)
    result = segmenter.segment(picture(64, 64), "cat;dog")
    assert result.classes == ("background", "cat", "dog")
    scores, _ = segmenter.method.score_image(picture(64, 64), segmenter.encode_classes("cat;dog"))
    expected = np.where(scores.max(0).values < segmenter.method.settings.background, 0, scores.argmax(0) + 1)
    np.testing.assert_array_equal(result.labels, expected)


def test_overlong_class_names_and_foreign_options_are_refused(
    diffsegmenter: DiffSegmenter, tiny_preset: Preset
) -> None:
    with pytest.raises(ClassNamesError, match="does not fit a prompt"):
        diffsegmenter.encode_classes("cat " * 60)
    with pytest.raises(
        ConfigError,
        match="method diffsegmenter has no option or setting 'neighbors'; its settings are batch",
    ):
        load(preset=tiny_preset, neighbors=3)


def test_settings_come_from_the_preset_and_from_the_call(tiny_preset: Preset) -> None:
    preset = replace(tiny_preset, methods={"diffsegmenter": {"timestep": 200, "presence": 0.5}})
    settings = load(preset=preset, presence=0.25).method.settings
    assert (settings.timestep, settings.presence, settings.height) == (200, 0.25, 64)
    with pytest.raises(ConfigError, match=r"methods.diffsegmenter.timestep is 1000; expected 0 .. 999"):
        load(preset=tiny_preset, timestep=1000)
