"""Stable Diffusion XL and 3 generate pictures whose nouns are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from transformers import CLIPTokenizer

import freeda
from freeda.errors import ModelNotFoundError
from freeda.models.attention import capture_cross_attention
from freeda.models.diffusion import denoiser_of, generate, load_generator, pipeline_fingerprint
from freeda.models.prompts import prompt_positions, token_limit
from freeda.presets.settings import Preset, Synthesis
from freeda.presets.toml import to_toml
from freeda.records import Caption, NounSpan
from index_build.captions.cutting import TaggedCaption
from index_build.config import BuildConfig
from index_build.generation.prototypes import build_prototypes, load_models
from tests.tiny_pipelines import make_sd3, make_xl

CPU = torch.device("cpu")
PROMPTS = ["a red cat on the grass", "an owl in the snow"]
POSITIONS = [[(3,), (5, 6)], [(2,)]]
LATENT = (8, 12)
KINDS = ("xl", "sd3", "sd3.5", "sd3 without T5")


def span(text: str, noun: str) -> NounSpan:
    start = text.index(noun)
    return NounSpan(noun=noun, start=start, end=start + len(noun))


@pytest.fixture(scope="module")
def folders(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp("larger") for kind in KINDS}
    make_xl(tokenizer, made["xl"])
    make_sd3(tokenizer, made["sd3"])
    make_sd3(tokenizer, made["sd3.5"], newer=True)
    make_sd3(tokenizer, made["sd3 without T5"], t5=False)
    return made


@pytest.fixture(params=KINDS)
def pipeline(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return load_generator([str(folders[request.param])], CPU)


def run(pipeline: Any, guidance: float) -> torch.Tensor:
    found: torch.Tensor = pipeline(
        PROMPTS,
        height=64,
        width=96,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
        output_type="latent",
    ).images
    return found


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_capture_changes_no_bit(pipeline: Any, guidance: float) -> None:
    before = run(pipeline, guidance)
    with capture_cross_attention(denoiser_of(pipeline), POSITIONS) as maps:
        during = run(pipeline, guidance)
    assert torch.equal(before, during) and torch.equal(before, run(pipeline, guidance))
    assert maps.layers, "nothing was captured"


def calls_of(pipeline: Any, guidance: float) -> list[tuple[Any, torch.Tensor, torch.Tensor, bool]]:
    """Per attention layer and step: the layer, its image and text inputs, and whether it attends to both."""
    found: list[tuple[Any, torch.Tensor, torch.Tensor, bool]] = []
    joint = pipeline.__class__.__name__ == "StableDiffusion3Pipeline"
    kind, name = ("JointTransformerBlock", "attn") if joint else ("BasicTransformerBlock", "attn2")

    def note(layer: Any, args: Any, kwargs: Any) -> None:
        image = kwargs["hidden_states"] if joint else args[0]
        found.append((layer, image, kwargs["encoder_hidden_states"], joint))

    blocks = [block for block in denoiser_of(pipeline).modules() if type(block).__name__ == kind]
    hooks = [getattr(block, name).register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    with torch.no_grad():
        run(pipeline, guidance)
    for hook in hooks:
        hook.remove()
    return found


def by_head(layer: Any, values: torch.Tensor, norm: Any) -> torch.Tensor:
    values = values.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    return values if norm is None else norm(values)


@torch.no_grad()
def probabilities(layer: Any, image: torch.Tensor, text: torch.Tensor, joint: bool) -> np.ndarray:
    """(B, heads, queries, text tokens): a softmax over all keys in float64, of which the text's are kept."""
    query = by_head(layer, layer.to_q(image), layer.norm_q)
    if joint:
        keys = [by_head(layer, layer.to_k(image), layer.norm_k)]
        keys.append(by_head(layer, layer.add_k_proj(text), layer.norm_added_k))
        key = torch.cat(keys, 2)
    else:
        key = by_head(layer, layer.to_k(text), layer.norm_k)
    logits = (query @ key.transpose(-1, -2)).double().numpy() / query.shape[-1] ** 0.5
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights[..., -text.shape[1] :]


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_maps_equal_a_full_capture(pipeline: Any, guidance: float) -> None:
    """Against every layer's probabilities, kept whole and then reduced."""
    expected: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in PROMPTS]
    for layer, image, text, joint in calls_of(pipeline, guidance):
        weights = probabilities(layer, image, text, joint)[-len(PROMPTS) :]
        factor = round((LATENT[0] * LATENT[1] / weights.shape[2]) ** 0.5)
        grid = (LATENT[0] // factor, LATENT[1] // factor)
        for number, nouns in enumerate(POSITIONS):
            columns = [weights[number][:, :, list(places)].mean((0, 2)) for places in nouns]
            held = expected[number].setdefault(grid, np.zeros((len(nouns), *grid)))
            held += np.stack(columns).reshape(len(nouns), *grid)
    with capture_cross_attention(denoiser_of(pipeline), POSITIONS) as maps:
        run(pipeline, guidance)
    for number, wanted in enumerate(expected):
        found = maps.sums(number)
        assert set(found) == set(wanted)
        for grid, values in wanted.items():
            np.testing.assert_allclose(found[grid].numpy(), values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_noun_s_positions_hold_its_tokens_in_every_vocabulary(folders: dict[str, Path], kind: str) -> None:
    pipeline = load_generator([str(folders[kind])], CPU)
    text = "a zebra, an owl (red) and the fire truck on the grass"
    first = pipeline.tokenizer(text, padding="max_length").input_ids
    ids, vocabularies = list(first), [pipeline.tokenizer] * len(first)
    if getattr(pipeline, "tokenizer_3", None) is not None:
        more = pipeline.tokenizer_3(text).input_ids
        ids, vocabularies = [*ids, *more], [*vocabularies, *[pipeline.tokenizer_3] * len(more)]
    for noun in ("zebra", "owl", "fire truck", "grass"):
        found = prompt_positions(pipeline, text, span(text, noun))
        assert found is not None
        spelt: dict[int, list[int]] = {}
        for place in found:
            spelt.setdefault(id(vocabularies[place]), []).append(place)
        assert len(spelt) == (2 if kind in ("sd3", "sd3.5") else 1)
        for places in spelt.values():
            words = vocabularies[places[0]].decode([ids[place] for place in places])
            assert words.strip() == noun


def test_a_noun_beyond_clip_s_tokens_is_found_among_t5_s(folders: dict[str, Path]) -> None:
    pipeline, long = load_generator([str(folders["sd3"])], CPU), "on the " * 40 + "grass"
    found = prompt_positions(pipeline, long, span(long, "grass"))
    assert found == (token_limit(pipeline) + 80,)
    alone = load_generator([str(folders["xl"])], CPU)
    assert prompt_positions(alone, long, span(long, "grass")) is None


@pytest.mark.parametrize("part", ["text_encoder_2", "text_encoder_3", "transformer"])
def test_every_part_is_in_the_fingerprint(folders: dict[str, Path], part: str) -> None:
    pipeline = load_generator([str(folders["sd3"])], CPU)
    before = pipeline_fingerprint(pipeline)
    with torch.no_grad():
        next(getattr(pipeline, part).parameters()).view(-1)[0] += 1
    assert pipeline_fingerprint(pipeline) != before


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_built_with_it(folders: dict[str, Path], kind: str, tiny_preset: Preset) -> None:
    preset = replace(tiny_preset, models={**tiny_preset.models, "diffusion": (str(folders[kind]),)})
    models = load_models(preset, "cpu")
    captions = [
        TaggedCaption(Caption(id=str(number), text=text), tuple(span(text, noun) for noun in nouns))
        for number, (text, nouns) in enumerate(zip(PROMPTS, [("cat", "grass"), ("owl", "snow")], strict=True))
    ]
    outcome = build_prototypes(captions, models, BuildConfig(preset=preset))
    found = {(item.caption_id, item.noun) for item in outcome.prototypes}
    assert found == {("0", "cat"), ("0", "grass"), ("1", "owl"), ("1", "snow")}, outcome.rejects
    assert all(np.isfinite(item.vector).all() for item in outcome.prototypes)


def test_a_caption_s_seed_decides_its_picture(pipeline: Any) -> None:
    config = Synthesis(height=64, width=64, steps=2, guidance_scale=2.0)
    first = generate(pipeline, PROMPTS, POSITIONS, [5, 6], config)
    swapped = generate(pipeline, PROMPTS[::-1], POSITIONS[::-1], [6, 5], config)
    other = generate(pipeline, PROMPTS, POSITIONS, [7, 6], config)
    assert np.abs(first[0].pixels.astype(int) - swapped[1].pixels).max() <= 1
    assert np.abs(first[0].pixels.astype(int) - other[0].pixels).max() > 2


@pytest.mark.parametrize("kind", ["xl", "sd3"])
def test_methods_that_look_into_a_unet_refuse_it(
    folders: dict[str, Path], kind: str, tiny_preset: Preset, tmp_path: Path
) -> None:
    preset = replace(tiny_preset, models={**tiny_preset.models, "diffusion": (str(folders[kind]),)})
    (tmp_path / "larger.toml").write_text(to_toml(preset))
    with pytest.raises(ModelNotFoundError, match=r"Pipeline; expected Stable Diffusion 1\.x or 2\.x"):
        freeda.load(method="diffsegmenter", preset=str(tmp_path / "larger.toml"))


def test_another_pipeline_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"a DDPMPipeline; expected Stable Diffusion 1\.x or 2\.x,"):
        load_generator([str(tmp_path)], CPU)
