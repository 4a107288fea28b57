from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from freeda.models.attention import capture_cross_attention
from freeda.models.diffusion import generate, load_pipeline, noised_noun_maps, pipeline_fingerprint
from freeda.presets.settings import Synthesis

CPU = torch.device("cpu")
PROMPTS, POSITIONS = ["a red cat on the grass", "an owl in the snow"], [[(3,), (6,)], [(2,)]]


@pytest.mark.parametrize("timestep", [100, 700])
def test_pictures_are_noised_by_the_training_schedule(any_pipeline_folder: Path, timestep: int) -> None:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, with a_t the product of 1 - beta (Ho et al. 2020)."""
    pipeline = load_pipeline([str(any_pipeline_folder)], CPU)
    generate(
        pipeline, PROMPTS, POSITIONS, [0, 1], Synthesis(height=64, width=64, steps=2, guidance_scale=2.0)
    )
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = noised_noun_maps(pipeline, images, PROMPTS, POSITIONS, timestep=timestep, seed=3)

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    share = float(np.cumprod(1 - betas)[timestep])
    with torch.no_grad():
        clean = pipeline.vae.encode(images * 2 - 1).latent_dist.mode() * pipeline.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
        noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
        ids = pipeline.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
        states = pipeline.text_encoder(ids).last_hidden_state
        with capture_cross_attention(pipeline.unet, POSITIONS) as maps:
            pipeline.unet(noisy, torch.tensor(timestep), states)
    for image in range(2):
        expected = maps.maps(image, latent_size=(8, 12))
        np.testing.assert_allclose(found[image], expected, rtol=1e-3, atol=1e-5)


def test_a_caption_s_seed_decides_its_picture(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    config = Synthesis(height=64, width=64, steps=2, guidance_scale=2.0)
    first = generate(pipeline, PROMPTS, POSITIONS, [5, 6], config)
    swapped = generate(pipeline, PROMPTS[::-1], POSITIONS[::-1], [6, 5], config)
    other = generate(pipeline, PROMPTS, POSITIONS, [7, 6], config)
    assert np.abs(first[0].pixels.astype(int) - swapped[1].pixels).max() <= 1
    np.testing.assert_allclose(first[0].noun_maps, swapped[1].noun_maps, rtol=1e-3)
    assert np.abs(first[0].pixels.astype(int) - other[0].pixels).max() > 5
    assert np.abs(first[1].pixels.astype(int) - other[1].pixels).max() <= 1


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_every_part_of_a_pipeline_is_in_its_fingerprint(pipeline_folder: Path, part: str) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    before = pipeline_fingerprint(pipeline)
    weight = next(getattr(pipeline, part).parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
    assert pipeline_fingerprint(pipeline) != before
    with torch.no_grad():
        weight.view(-1)[0] -= 1
    assert pipeline_fingerprint(load_pipeline([str(pipeline_folder)], CPU)) == before
