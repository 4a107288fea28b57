from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from freeda.models.attention import (
    DegenerateMapError,
    NounMaps,
    aggregate,
    capture_cross_attention,
    localize,
    resize_map,
)
from freeda.models.diffusion import load_pipeline

PROMPTS = ["a red cat on the grass", "an owl in the snow"]
POSITIONS = [[(3,), (5, 6)], [(2,)]]
CPU = torch.device("cpu")


def run(pipeline, guidance: float, size=(64, 96), prompts=PROMPTS) -> torch.Tensor:
    return pipeline(
        prompts,
        height=size[0],
        width=size[1],
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        output_type="latent",
    ).images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_capture_changes_no_bit(any_pipeline_folder: Path, guidance: float, dtype: torch.dtype) -> None:
    pipeline = load_pipeline([str(any_pipeline_folder)], CPU, dtype)
    before = run(pipeline, guidance)
    with capture_cross_attention(pipeline.unet, POSITIONS) as maps:
        during = run(pipeline, guidance)
    after = run(pipeline, guidance)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert maps.layers, "nothing was captured"


def test_capture_leaves_the_unet_as_it_was_even_after_an_error(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    before = dict(pipeline.unet.attn_processors)
    with pytest.raises(ZeroDivisionError), capture_cross_attention(pipeline.unet, POSITIONS):
        raise ZeroDivisionError
    assert dict(pipeline.unet.attn_processors) == before
    assert not any(module._forward_pre_hooks for module in pipeline.unet.modules())


def reference_maps(pipeline, guidance: float, size) -> list[dict[tuple[int, int], np.ndarray]]:
    """Everything kept, then reduced: every layer's probabilities from its own linear maps' outputs."""
    unet = pipeline.unet
    calls: list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] = []
    hooks = []
    for block in [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]:
        hooks.append(
            block.attn2.register_forward_pre_hook(
                lambda layer, args, kwargs: calls.append((layer, args[0], kwargs["encoder_hidden_states"])),
                with_kwargs=True,
            )
        )
    with torch.no_grad():
        run(pipeline, guidance, size)
    for hook in hooks:
        hook.remove()
    sums: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in PROMPTS]
    latent = (size[0] // 8, size[1] // 8)
    for layer, hidden, text in calls:
        conditional = slice(len(hidden) - len(PROMPTS), None)
        q, k = layer.to_q(hidden[conditional]), layer.to_k(text[conditional])
        heads, depth = layer.heads, q.shape[-1] // layer.heads
        factor = int(round((latent[0] * latent[1] / q.shape[1]) ** 0.5))
        grid = (latent[0] // factor, latent[1] // factor)
        for image, nouns in enumerate(POSITIONS):
            total = np.zeros((len(nouns), q.shape[1]))
            for head in range(heads):
                part = slice(head * depth, (head + 1) * depth)
                scores = (q[image, :, part] @ k[image, :, part].T / depth**0.5).detach().double().numpy()
                probabilities = np.exp(scores - scores.max(1, keepdims=True))
                probabilities /= probabilities.sum(1, keepdims=True)
                for row, positions in enumerate(nouns):
                    total[row] += probabilities[:, list(positions)].mean(1) / heads
            held = sums[image].setdefault(grid, np.zeros((len(nouns), *grid)))
            held += total.reshape(len(nouns), *grid)
    return sums


@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_maps_equal_a_full_capture_on_a_picture_that_is_not_square(
    any_pipeline_folder: Path, guidance: float
) -> None:
    pipeline = load_pipeline([str(any_pipeline_folder)], CPU)
    size = (128, 192)
    expected = reference_maps(pipeline, guidance, size)
    with capture_cross_attention(pipeline.unet, POSITIONS) as maps:
        run(pipeline, guidance, size)
    for found, wanted in zip(maps.sums, expected, strict=True):
        assert set(found) == set(wanted)
        for grid, values in wanted.items():
            np.testing.assert_allclose(found[grid].numpy(), values, rtol=1e-4, atol=1e-6)


def test_half_precision_maps_stay_close(pipeline_folder: Path) -> None:
    maps = []
    for dtype in (torch.float32, torch.float16):
        pipeline = load_pipeline([str(pipeline_folder)], CPU, dtype)
        with capture_cross_attention(pipeline.unet, POSITIONS) as captured:
            run(pipeline, 3.0)
        maps.append(captured.maps(0, latent_size=(8, 12)))
    np.testing.assert_allclose(maps[0], maps[1], rtol=0.02, atol=1e-3)


def test_an_image_without_nouns_has_no_maps_and_disturbs_no_other(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    with capture_cross_attention(pipeline.unet, POSITIONS) as both:
        run(pipeline, 3.0)
    with capture_cross_attention(pipeline.unet, [[], POSITIONS[1]]) as second:
        run(pipeline, 3.0)
    assert second.maps(0, latent_size=(8, 12)).shape == (0, 8, 12)
    np.testing.assert_array_equal(both.maps(1, latent_size=(8, 12)), second.maps(1, latent_size=(8, 12)))


def test_a_batch_of_another_size_is_refused(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    with (
        pytest.raises(ValueError, match=r"batch of 6 while 2 images"),
        capture_cross_attention(pipeline.unet, POSITIONS),
    ):
        run(pipeline, 3.0, prompts=PROMPTS + ["a dog"])


def test_aggregate_averages_over_all_layer_calls_and_skips_coarse_grids() -> None:
    fine, coarse, tiny = torch.full((1, 8, 8), 6.0), torch.full((1, 4, 4), 2.0), torch.full((1, 1, 1), 99.0)
    sums = {(8, 8): fine, (4, 4): coarse, (1, 1): tiny}
    layers = {(8, 8): 3, (4, 4): 1, (1, 1): 5}
    maps = aggregate(sums, layers, (8, 8))
    np.testing.assert_allclose(maps, np.full((1, 8, 8), (6.0 + 2.0) / 4), rtol=1e-5)


def test_aggregate_uses_coarse_grids_when_there_are_no_others() -> None:
    maps = aggregate({(1, 1): torch.full((2, 1, 1), 4.0)}, {(1, 1): 2}, (8, 8))
    np.testing.assert_allclose(maps, 2.0)


def test_resizing_keeps_a_constant_and_the_place_of_a_peak() -> None:
    peak = torch.zeros(1, 8, 8)
    peak[0, 2, 5] = 1
    large = resize_map(peak, (64, 64))[0].numpy()
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert (row // 8, column // 8) == (2, 5)
    np.testing.assert_allclose(resize_map(torch.ones(1, 4, 6), (20, 30)), 1.0, rtol=1e-5)


LIMITS = {"threshold": 0.4, "min_area": 0.01, "max_area": 0.9, "min_peak": 1.3}


def test_localize_finds_the_lit_half() -> None:
    noun_map = np.zeros((16, 24), np.float32)
    noun_map[:, 12:] = 0.02
    mask, peak = localize(noun_map, (64, 96), **LIMITS)
    truth = np.zeros((64, 96), bool)
    truth[:, 48:] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97
    assert peak == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("noun_map", "reason"),
    [
        (np.full((8, 8), 0.3), "no peak"),
        (np.zeros((8, 8)), "no peak"),
        (np.where(np.eye(8) > 0, np.nan, 1.0), "not finite"),
        (1.0 + 0.01 * np.eye(8), "no peak"),
        (np.where(np.arange(64).reshape(8, 8) < 3, 0.0, 1.0), "no peak"),
    ],
)
def test_degenerate_maps_are_rejected_with_a_reason(noun_map: np.ndarray, reason: str) -> None:
    with pytest.raises(DegenerateMapError, match=reason):
        localize(noun_map.astype(np.float32), (64, 64), **LIMITS)


def test_masks_of_implausible_area_are_rejected() -> None:
    point = np.zeros((64, 64), np.float32)
    point[3, 3] = 1
    with pytest.raises(DegenerateMapError, match="too small"):
        localize(point, (64, 64), **LIMITS)
    wide = np.ones((64, 64), np.float32)
    wide[:3] = 0
    with pytest.raises(DegenerateMapError, match="covers the picture"):
        localize(wide, (64, 64), **(LIMITS | {"min_peak": 1.0}))


def test_noun_maps_average_the_noun_s_tokens() -> None:
    maps = NounMaps([[(0, 2)]])
    maps.add(torch.tensor([[[0.2, 0.5, 0.4], [0.0, 1.0, 0.0]]]), (1, 2))
    np.testing.assert_allclose(maps.sums[0][(1, 2)].numpy(), [[[0.3, 0.0]]], rtol=1e-6)
