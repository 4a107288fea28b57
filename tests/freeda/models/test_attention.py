from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch.utils._python_dispatch import TorchDispatchMode

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
    for image, wanted in enumerate(expected):
        found = maps.sums(image)
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


def test_the_coarsest_grid_is_a_choice() -> None:
    sums = {(8, 8): torch.full((1, 8, 8), 6.0), (4, 4): torch.full((1, 4, 4), 2.0)}
    layers = {(8, 8): 2, (4, 4): 1}
    for coarsest, expected in ((8, 8 / 3), (3, 8 / 3), (2, 3.0), (1, 8 / 3)):  # with 1 nothing is left
        np.testing.assert_allclose(aggregate(sums, layers, (8, 8), coarsest), expected, rtol=1e-5)


def test_aggregate_leaves_out_what_bicubic_resizing_overshoots() -> None:
    """DAAM clamps each layer's map before the mean."""
    peak = torch.zeros(1, 4, 4)
    peak[0, 1, 2] = 1
    overshooting = resize_map(peak, (8, 8))
    assert overshooting.min() < -0.01
    maps = aggregate({(4, 4): peak, (8, 8): torch.ones(1, 8, 8)}, {(4, 4): 1, (8, 8): 1}, (8, 8))
    np.testing.assert_allclose(maps, (np.maximum(overshooting.numpy(), 0) + 1) / 2, atol=1e-6)


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


def test_noun_maps_are_sums_of_each_image_s_own_columns() -> None:
    maps = NounMaps([1, 2])
    attention = torch.tensor([[[0.2, 9.0], [0.0, 9.0]], [[0.1, 0.3], [0.2, 0.4]]])
    maps.add(attention.clone(), (1, 2))
    maps.add(attention.clone(), (1, 2))
    np.testing.assert_allclose(maps.sums(0)[(1, 2)], [[[0.4, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(maps.sums(1)[(1, 2)], [[[0.2, 0.4]], [[0.6, 0.8]]], rtol=1e-6)
    assert maps.layers == {(1, 2): 2}


@pytest.mark.parametrize("side", [64, 65, 63, 66])
def test_an_eighth_of_an_odd_side_is_too_coarse_as_well(side: int) -> None:
    """Sides are halved upwards: 65, 33, 17, 9."""
    grids = [side]
    for _ in range(3):
        grids.append((grids[-1] + 1) // 2)
    sums = {(grid, grid): torch.full((1, grid, grid), float(number)) for number, grid in enumerate(grids)}
    maps = aggregate(sums, dict.fromkeys(sums, 1), (side, side))
    np.testing.assert_allclose(maps, (0 + 1 + 2) / 3, rtol=1e-5)


def test_more_nouns_than_a_head_is_wide(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    many = [[(number % 9 + 1,) for number in range(30)], [(2,)]]
    with capture_cross_attention(pipeline.unet, many) as maps:
        run(pipeline, 3.0)
    with capture_cross_attention(pipeline.unet, [[(1,), (9,)], [(2,)]]) as few:
        run(pipeline, 3.0)
    for grid, values in few.sums(0).items():
        np.testing.assert_allclose(maps.sums(0)[grid][[0, 8, 18, 26]], values[[0, 1, 0, 1]], rtol=1e-4)


def test_an_ip_adapter_s_layers_are_captured_as_well(pipeline_folder: Path) -> None:
    """Its processors get the states of a text and of a picture together; the text's attention is the same."""
    block = next(m for m in load_pipeline([str(pipeline_folder)], CPU).unet.modules() if _is_transformer(m))
    generator = torch.Generator().manual_seed(1)
    width = block.transformer_blocks[0].attn2.to_q.in_features
    hidden = torch.randn(2, width, 8, 12, generator=generator)
    text, picture = (torch.randn(2, *size, generator=generator) for size in ((10, 32), (1, 4, 32)))
    found = []
    for states in (text, (text, [picture])):
        with torch.no_grad(), capture_cross_attention(block, POSITIONS) as maps:
            block(hidden, states)
        found.append(maps)
        for layer in block.transformer_blocks:
            layer.attn2.processor = IPAdapterAttnProcessor2_0(width, 32, num_tokens=(4,), scale=0.7)
    assert found[0].layers == found[1].layers == {(8, 12): len(block.transformer_blocks)}
    for image in range(2):
        torch.testing.assert_close(found[0].sums(image), found[1].sums(image))


def _is_transformer(module: torch.nn.Module) -> bool:
    return isinstance(module, Transformer2DModel)


def test_fused_projections_are_refused(pipeline_folder: Path) -> None:
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    pipeline.fuse_qkv_projections(vae=False)
    with (
        pytest.raises(ValueError, match=r"call unfuse_qkv_projections\(\) first"),
        capture_cross_attention(pipeline.unet, POSITIONS),
    ):
        run(pipeline, 3.0)


class Operations(TorchDispatchMode):
    """Counts operations, and those that pass something between the host and the device."""

    TRANSFERS = ("_to_copy", "_local_scalar_dense", "lift_fresh", "lift", "item", "scalar_tensor")

    def __init__(self) -> None:
        super().__init__()
        self.total, self.transfers = 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.total += 1
        self.transfers += operation.overloadpacket.__name__ in self.TRANSFERS
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capture_costs_few_operations_and_no_transfer(dtype: torch.dtype) -> None:
    """A UNet with all layers of Stable Diffusion 1.5, narrow; eight captions of three nouns, with
    guidance.
    """
    torch.manual_seed(0)
    narrow = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32, "norm_num_groups": 8}
    unet = UNet2DConditionModel(sample_size=8, **narrow).to(dtype).eval()
    latents, states = torch.randn(16, 4, 8, 8, dtype=dtype), torch.randn(16, 77, 32, dtype=dtype)
    timestep = torch.tensor(500)
    positions = [[(2,), (4, 5), (7,)]] * 8
    with torch.no_grad():
        with Operations() as plain:
            unet(latents, timestep, states)
        with capture_cross_attention(unet, positions) as maps:
            for _ in range(2):  # the first step prepares
                with Operations() as captured:
                    unet(latents, timestep, states)
                assert captured.transfers == plain.transfers
                assert captured.total <= 1.10 * plain.total
    assert sum(maps.layers.values()) == 2 * 16
    assert plain.total > 1000
