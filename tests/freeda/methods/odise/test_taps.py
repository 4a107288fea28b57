"""Taps are the inputs of blocks, read without changing what the pipeline computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from freeda.errors import ConfigError
from freeda.methods.odise.captioner import ImplicitCaptioner
from freeda.methods.odise.head import Head
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import FULL_SIZE_TAPS, NetworkSettings
from freeda.methods.odise.taps import TappedPipeline

SD15_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 128, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(pipeline, pictures: torch.Tensor, states: torch.Tensor, timestep: int) -> dict[str, torch.Tensor]:
    """Every resnet's input, from one whole pass of each network."""
    found: dict[str, torch.Tensor] = {}

    def note(name):
        return lambda module, inputs: found.__setitem__(name, inputs[0])

    hooks = [
        module.register_forward_pre_hook(note(f"{part}.{name}"))
        for part in ("vae", "unet")
        for name, module in getattr(pipeline, part).named_modules()
        if type(module).__name__ == "ResnetBlock2D"
    ]
    latents = pipeline.vae.encode(pictures * 2 - 1).latent_dist.mean
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(42))
    alpha = DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod[timestep]
    noisy = alpha.sqrt() * latents * pipeline.vae.config.scaling_factor + (1 - alpha).sqrt() * noise
    pipeline.vae.decode(latents)
    pipeline.unet(noisy, timestep, states)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("timestep", [0, 300])
def test_taps_are_the_inputs_of_their_blocks(frozen: FrozenModels, timestep: int) -> None:
    pipeline, names = frozen.diffusion.pipeline, frozen.diffusion.taps
    tapped = TappedPipeline(pipeline, names, timestep=timestep, noise_seed=42)
    states = tapped.empty_text().expand(2, -1, -1)
    expected = by_hand(pipeline, images(), states, timestep)
    for name, found in zip(names, tapped.features(images(), states), strict=True):
        torch.testing.assert_close(found, expected[name])


def test_a_part_without_taps_is_not_run(frozen: FrozenModels) -> None:
    pipeline = frozen.diffusion.pipeline
    tapped = TappedPipeline(pipeline, ["vae.encoder.down_blocks.2.resnets.0"], timestep=0, noise_seed=42)
    ran: list[str] = []
    hooks = [
        part.register_forward_pre_hook(lambda module, inputs: ran.append(type(module).__name__))
        for part in (pipeline.unet, pipeline.vae.decoder)
    ]
    (found,) = tapped.features(images(), tapped.empty_text().expand(2, -1, -1))
    for hook in hooks:
        hook.remove()
    assert found.shape == (2, 16, 16, 32) and not ran


def test_the_pipeline_is_left_as_it_was(frozen: FrozenModels) -> None:
    pipeline, tapped = frozen.diffusion.pipeline, frozen.diffusion
    latents, states = torch.randn(1, 4, 8, 8), tapped.empty_text()
    with torch.no_grad():
        before = pipeline.unet(latents, 5, states).sample
        tapped.features(images(1), states, torch.ones(1, tapped.time_width))
        assert torch.equal(pipeline.unet(latents, 5, states).sample, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipeline.unet.modules())


def test_gradients_reach_text_and_time_but_no_weight(frozen: FrozenModels) -> None:
    tapped = frozen.diffusion
    text = tapped.empty_text().expand(1, -1, -1).clone().requires_grad_()
    time = torch.zeros(1, tapped.time_width, requires_grad=True)
    found = tapped.features(images(1), text, time)
    sum(tap.square().sum() for tap in found).backward()
    assert text.grad is not None and text.grad.abs().max() > 0
    assert time.grad is not None and time.grad.abs().max() > 0
    for part in (tapped.pipeline.unet, tapped.pipeline.vae):
        assert all(weight.grad is None for weight in part.parameters())


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("unet.up_blocks.9.resnets.0", "no block 'unet.up_blocks.9.resnets.0'; set methods.odise.taps"),
        ("unet.up_blocks", "is a ModuleList; expected a resnet block"),
        ("text_encoder.layers", "begins with none of vae.encoder, unet, vae.decoder"),
    ],
)
def test_taps_that_are_not_there_are_refused(frozen: FrozenModels, tap: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TappedPipeline(frozen.diffusion.pipeline, [tap], timestep=0, noise_seed=0)


SD21_UNET = SD15_UNET | {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


class Shapes:
    """Stable Diffusion without weights."""

    def __init__(self, unet: dict[str, Any]) -> None:
        with torch.device("meta"):
            self.unet = UNet2DConditionModel(**unet)
            self.vae = AutoencoderKL(**SD15_VAE)
        self.text_encoder = torch.nn.Identity()
        self.scheduler = DDPMScheduler(beta_schedule="scaled_linear")


@pytest.mark.parametrize(("unet", "width"), [(SD15_UNET, 768), (SD21_UNET, 1024)], ids=["1.5", "2.1"])
def test_at_full_size_taps_have_the_released_code_s_channels_and_grids(
    unet: dict[str, Any], width: int
) -> None:
    tapped = TappedPipeline(Shapes(unet), FULL_SIZE_TAPS, timestep=0, noise_seed=42)
    assert tapped.channels == (512, 512, 2560, 1920, 960, 640, 512, 512)
    pictures, states = torch.rand(1, 3, 512, 512, device="meta"), torch.rand(1, 77, width, device="meta")
    found: dict[int, torch.Tensor] = {}
    vae = tapped.pipeline.vae
    latents = torch.rand(1, 4, 64, 64, device="meta")
    with torch.no_grad(), tapped._listening("vae.encoder", found):
        vae.encode(pictures)
    with torch.no_grad(), tapped._listening("unet", found, stop=True):
        tapped.pipeline.unet(latents, torch.zeros(1, device="meta"), states)
    with torch.no_grad(), tapped._listening("vae.decoder", found, stop=True):
        vae.decode(latents)
    assert [found[number].shape[-1] for number in range(8)] == [128, 64, 8, 16, 32, 64, 64, 128]


def test_at_full_size_the_paper_s_number_of_parameters_is_trained() -> None:
    settings = NetworkSettings()
    with torch.device("meta"):
        head = Head((512, 512, 2560, 1920, 960, 640, 512, 512), 768, settings)
        captioner = ImplicitCaptioner(768, (77, 768), 1280)
    trained = sum(weight.numel() for part in (head, captioner) for weight in part.parameters())
    assert trained == pytest.approx(28.1e6, rel=0.01)
