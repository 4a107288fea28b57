"""The network and the latents of masks against what they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from freeda.errors import ConfigError
from freeda.methods.digseg.latents import MaskLatents
from freeda.methods.digseg.method import Frozen, most_present
from freeda.methods.digseg.sampling import denoised, mask_schedule, one_step, pyramid_noise
from freeda.methods.digseg.settings import NetworkSettings
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.models.diffusion import load_pipeline
from freeda.presets import load_preset
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.vocabulary import THINGS
from tests.freeda.methods.digseg.conftest import CPU, SETTINGS, new_network


def inputs(frozen: Frozen, count: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, text states and CLIP embeddings."""
    generator = torch.Generator().manual_seed(0)
    pipeline = frozen.pipeline
    length, width = pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim
    shapes = ((count, 4, side, side), (count, length, width), (count, frozen.text_width))
    latents, states, texts = (torch.randn(shape, generator=generator) for shape in shapes)
    return latents, states, torch.nn.functional.normalize(texts, dim=1)


def test_before_training_the_network_is_the_pipeline_s_unet(frozen: Frozen) -> None:
    """The image's latent in both halves gives what it gave alone, whatever the text path is told."""
    network, (latents, states, texts) = new_network(frozen), inputs(frozen)
    steps = torch.tensor([10, 700])
    with torch.no_grad():
        found = network(latents, latents, steps, states, texts)
        expected = frozen.pipeline.unet(latents, steps, states).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert network.unet.config.in_channels == 8 and frozen.pipeline.unet.config.in_channels == 4
    assert network.unet.conv_in is not frozen.pipeline.unet.conv_in


def test_open_gates_let_the_class_s_embedding_through(frozen: Frozen) -> None:
    network, (latents, states, texts) = new_network(frozen), inputs(frozen)
    assert network.text_path is not None
    blocks = len(frozen.pipeline.unet.down_blocks) + 1 + len(frozen.pipeline.unet.up_blocks)
    assert len(network.text_path.gates) == blocks
    steps = torch.tensor([999, 999])
    for site in range(blocks):
        with torch.no_grad():
            network.text_path.gates.zero_()
            network.text_path.gates[site] = 0.5
            first = network(latents, latents, steps, states, texts)
            second = network(latents, latents, steps, states, texts.flip(0))
        assert (first - second).abs().max() > 1e-4, site


def test_without_a_text_path_the_embedding_does_not_matter(frozen: Frozen) -> None:
    network = new_network(frozen, NetworkSettings(side=64, multiple=64, text_path=False))
    latents, states, texts = inputs(frozen)
    with torch.no_grad():
        found = [one_step(network, latents, states, some, 999) for some in (texts, texts.flip(0))]
    assert torch.equal(*found) and not any("text_path" in name for name, _ in network.named_parameters())


def test_every_weight_is_trained_but_nothing_frozen(frozen: Frozen) -> None:
    network = new_network(frozen)
    latents, states, texts = inputs(frozen, side=16)  # of 8, one cell would be left to attend to itself
    with torch.no_grad():
        network.text_path.gates.fill_(0.1)  # type: ignore[union-attr]
    one_step(network, latents, states, texts, 999).square().sum().backward()
    assert [n for n, w in network.named_parameters() if w.grad is None or not w.grad.any()] == []
    names = {name for name, _ in network.named_parameters()}
    assert not names & {"masks.mean", "masks.std", "masks.readout", "masks.offset"}


def test_one_step_is_the_end_of_the_schedule(frozen: Frozen) -> None:
    """Nothing of the mask is left there, and the velocity is its negative."""
    schedule = mask_schedule(frozen.pipeline)
    assert schedule.alphas_cumprod[-1] == pytest.approx(0, abs=1e-7)
    mask, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    last = torch.tensor([999])
    torch.testing.assert_close(schedule.add_noise(mask, noise, last), noise, atol=1e-5, rtol=0)
    torch.testing.assert_close(schedule.get_velocity(mask, noise, last), -mask, atol=1e-5, rtol=0)
    network, (latents, states, texts) = new_network(frozen), inputs(frozen)
    with torch.no_grad():
        velocity = network(latents, torch.zeros_like(latents), torch.tensor([999, 999]), states, texts)
        assert torch.equal(one_step(network, latents, states, texts, 999), -velocity)


def test_a_model_that_predicts_noise_is_refused(pipeline_folder: Path) -> None:
    """At the end of the schedule, where nothing of the mask is left, noise would tell nothing."""
    pipeline = load_pipeline([str(pipeline_folder)], CPU)
    with pytest.raises(ConfigError, match="predicts velocities.* this one predicts epsilon; choose another"):
        mask_schedule(pipeline)


def test_denoising_finds_a_mask_that_the_network_knows(frozen: Frozen) -> None:
    """A network that always points at the same mask leads there, in any number of steps, for any seed."""
    latents, states, texts = inputs(frozen)
    mask, schedule = torch.randn(2, 4, 8, 8), mask_schedule(frozen.pipeline)

    def knows(images: torch.Tensor, noisy: torch.Tensor, steps: torch.Tensor, *rest: object) -> torch.Tensor:
        kept = schedule.alphas_cumprod[steps].sqrt()[:, None, None, None]
        lost = (1 - schedule.alphas_cumprod[steps]).sqrt()[:, None, None, None]
        return kept * (noisy - kept * mask) / lost - lost * mask

    for steps, seeds in ((1, [0]), (5, [1]), (10, [2, 3])):
        found = denoised(knows, schedule, latents, states, texts, steps=steps, seeds=seeds)  # type: ignore[arg-type]
        torch.testing.assert_close(found, mask, atol=1e-3, rtol=1e-3)


def test_several_masks_are_averaged(frozen: Frozen) -> None:
    latents, states, texts = inputs(frozen)
    schedule = mask_schedule(frozen.pipeline)

    def keeps(images: torch.Tensor, noisy: torch.Tensor, *rest: object) -> torch.Tensor:
        return -noisy  # at the last step, the mask is the velocity's negative

    one, other, both = (
        denoised(keeps, schedule, latents, states, texts, steps=1, seeds=seeds)  # type: ignore[arg-type]
        for seeds in ([2], [3], [2, 3])
    )
    assert (one - other).abs().max() > 1
    torch.testing.assert_close(both, (one + other) / 2)


def test_noise_of_several_scales_has_variance_one_and_is_smooth_late_only() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = pyramid_noise((8, 4, 32, 32), torch.tensor([0] * 4 + [999] * 4), 999, generator)
    torch.testing.assert_close(noise.std((1, 2, 3)), torch.ones(8))
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3))
    assert neighbours[:4].abs().max() < 0.1 < 0.3 < neighbours[4:].min()


@pytest.fixture(scope="module")
def toy_masks() -> tuple[MaskLatents, object, np.ndarray, np.ndarray]:
    """Of held-out scenes: latents of their masks, the pipeline, the masks, and which are things."""
    pipeline = load_pipeline(load_preset("toy").model_ids("diffusion"), CPU)
    masks, things = [], []
    for number in range(8):
        scene = draw_scene(scene_rng("validation", number), 128)
        for label in np.unique(scene.labels):
            masks.append(scene.labels == label)
            things.append(label < len(THINGS))
    kept = np.stack(masks)
    latents = MaskLatents(4)
    latents.fit(pipeline, torch.from_numpy(np.where(kept, 1, -1)).float())
    return latents, pipeline, kept, np.array(things)


def test_the_autoencoder_keeps_masks(toy_masks: tuple[MaskLatents, object, np.ndarray, np.ndarray]) -> None:
    """What any network could reach at best, by the toy's autoencoder."""
    latents, pipeline, masks, things = toy_masks
    signed = torch.from_numpy(np.where(masks, 1, -1)).float()
    found = latents.decode(pipeline, latents.encode(pipeline, signed)).numpy() > 0
    iou = (found & masks).sum((1, 2)) / (found | masks).sum((1, 2))
    assert iou[things].mean() > 0.97 and iou[~things].mean() > 0.985


def test_latents_are_standard_and_can_be_read(
    toy_masks: tuple[MaskLatents, object, np.ndarray, np.ndarray],
) -> None:
    """By numpy's least squares, and well enough to tell where a class is."""
    latents, pipeline, masks, _ = toy_masks
    signed = np.where(masks, 1, -1).astype(np.float32)
    encoded = latents.encode(pipeline, torch.from_numpy(signed))
    torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(encoded.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    cells = signed.reshape(-1, 32, 4, 32, 4).mean((2, 4))
    columns = encoded.permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
    solution = np.linalg.lstsq(columns, cells.reshape(-1), rcond=None)[0]
    read = latents.read(encoded).numpy()
    np.testing.assert_allclose(read.reshape(-1), columns @ solution, atol=1e-3)
    assert ((read > 0) == (cells > 0)).mean() > 0.9


def test_the_masks_that_win_most_are_decoded() -> None:
    read = torch.full((5, 4, 4), -0.5)
    read[3, :3], read[1, 3], read[4, 0, 0] = 0.9, 0.8, 0.7  # 4 wins nowhere, but comes nearest
    assert most_present(read, 2) == [1, 3] and most_present(read, 3) == [1, 3, 4]
    assert most_present(read, 1) == [3] and most_present(read, 0) == [0, 1, 2, 3, 4]


def test_the_full_size_doubles_stable_diffusion_2_1_s_inputs() -> None:
    """By shape: 865.9 million parameters of the UNet, and the text path's."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
        network = SegmentingUNet(unet, SETTINGS, 1024)
    plain = sum(weight.numel() for weight in unet.parameters())
    assert plain == 865_910_724
    added = sum(weight.numel() for weight in network.parameters()) - plain
    channels = [320, 640, 1280, 1280, 1280, 1280, 1280, 640, 320]
    assert added == 4 * 9 * 320 + sum(2 * c * (1024 + 1) for c in channels) + len(channels)
