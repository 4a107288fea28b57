"""Self-attention completes attention maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from freeda.errors import ConfigError
from freeda.models.attention import capture_self_attention
from freeda.models.completion import complete, completed, normalised, self_attention_grid
from freeda.models.diffusion import generate, load_pipeline
from freeda.presets.settings import Localization, Preset, Synthesis
from index_build.generation.prototypes import load_models
from tests.tiny_pipelines import make_sd3

CPU = torch.device("cpu")
PROMPTS, POSITIONS = ["a red cat on the grass", "an owl in the snow"], [[(3,), (6,)], [(2,)]]


def test_every_position_takes_the_mean_over_those_that_it_attends_to() -> None:
    attention = torch.zeros(1, 4, 4)
    attention[0, :, :] = torch.tensor([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0.25, 0.75], [1, 0, 0, 0]])
    found = complete(torch.tensor([[[1.0, 2.0], [4.0, 8.0]]]), attention)
    np.testing.assert_allclose(found, [[[1.5, 2.0], [7.0, 1.0]]])


@pytest.mark.parametrize(("latent", "grid"), [((64, 64), (64, 64)), ((96, 96), (48, 48)), ((8, 6), (8, 6))])
def test_the_finest_grid_that_fits_is_chosen(
    pipeline_folder: Path, latent: tuple[int, int], grid: tuple[int, int]
) -> None:
    assert self_attention_grid(load_pipeline((str(pipeline_folder),), CPU).unet, latent, 64 * 64) == grid


def test_a_map_that_points_at_a_part_spreads_over_the_whole() -> None:
    """Two halves that attend to themselves; the map knows one corner of the left one."""
    left = (np.indices((8, 8))[1] < 4).ravel()
    attention = torch.from_numpy((left[:, None] == left[None]).astype(np.float32) / 32)[None]
    given = np.zeros((1, 8, 8), np.float32)
    given[0, :3, :3] = 0.25
    given += 0.01
    found = completed(given, attention, (8, 8), 0.5)
    assert found.mean() == pytest.approx(given.mean()) and found.max() == pytest.approx(given.max())
    # Corner: 1/2 + 1/2. The rest of the left half: 0 + 1/2. The right half: 0.
    shares = (found[0] - found.min()) / (found.max() - found.min())
    expected = np.where(given[0] > 0.1, 1.0, np.where(left.reshape(8, 8), 0.5, 0.0))
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    np.testing.assert_allclose(completed(given, attention, (8, 8), 0.0), given, atol=1e-6)


def test_a_flat_map_stays_flat() -> None:
    attention = torch.full((1, 16, 16), 1 / 16)
    np.testing.assert_allclose(completed(np.full((1, 8, 8), 0.3, np.float32), attention, (4, 4), 0.5), 0.3)
    assert completed(np.zeros((0, 8, 8), np.float32), attention, (4, 4), 0.5).shape == (0, 8, 8)


def test_generated_maps_are_completed_by_the_same_run_s_self_attention(any_pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(any_pipeline_folder)], CPU)
    config = Synthesis(height=64, width=96, steps=2, guidance_scale=2.0)
    plain = generate(pipeline, PROMPTS, POSITIONS, [0, 1], config)
    with capture_self_attention(pipeline.unet, (8, 12), 2) as own:
        generate(pipeline, PROMPTS, POSITIONS, [0, 1], config)
    found = generate(pipeline, PROMPTS, POSITIONS, [0, 1], config, localization=Localization(completion=0.3))
    for number in range(2):
        np.testing.assert_array_equal(found[number].pixels, plain[number].pixels)
        maps = torch.from_numpy(plain[number].noun_maps)
        attention = own.mean()[number].double().numpy()
        whole = (attention @ maps.flatten(1).double().numpy().T).T.reshape(maps.shape)
        mixed = normalised(0.7 * normalised(maps) + 0.3 * normalised(torch.from_numpy(whole)))
        completed_maps = torch.from_numpy(found[number].noun_maps)
        np.testing.assert_allclose(normalised(completed_maps), mixed, atol=1e-3)
        for reduce in (np.mean, np.max):
            wanted = reduce(plain[number].noun_maps, (1, 2))
            np.testing.assert_allclose(reduce(found[number].noun_maps, (1, 2)), wanted, rtol=1e-4)
        assert np.abs(found[number].noun_maps - plain[number].noun_maps).max() > 1e-4


def test_a_transformer_has_no_such_attention(
    tiny_preset: Preset, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    models = {**tiny_preset.models, "diffusion": (str(make_sd3(tokenizer, tmp_path / "sd3")),)}
    localization = replace(tiny_preset.localization, completion=0.5)
    with pytest.raises(ConfigError, match="localization.completion is 0.5, which needs a UNet"):
        load_models(replace(tiny_preset, models=models, localization=localization), "cpu")
    with pytest.raises(ConfigError, match="localization.completion is 1.5; expected between 0 and 1"):
        replace(tiny_preset.localization, completion=1.5)
