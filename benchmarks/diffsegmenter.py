"""Memory of DiffSegmenter at the size of Stable Diffusion 1.5, with random weights.

Run from the checkout's root: `python benchmarks/diffsegmenter.py [--classes 20] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from measuring import PeakMemory, machine
from results import publish
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from freeda.class_names import parse_classes
from freeda.methods.diffsegmenter.method import DiffSegmenterMethod
from freeda.methods.diffsegmenter.settings import DiffSegmenterSettings
from freeda.models.clip import load_clip
from freeda.models.loading import choose_device, default_dtype, prepare
from freeda.presets import load_preset
from freeda.presets.settings import TEMPLATES
from freeda.toyworld.measure import CARD
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.vocabulary import THINGS

_SIDE = 512


def make_pipeline(
    device: torch.device,
    channels: tuple[int, ...] = (320, 640, 1280, 1280),
    vae_channels: tuple[int, ...] = (128, 256, 512, 512),
) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's blocks, and by default its widths; the tokenizer is the toy world's."""
    torch.manual_seed(0)
    dtype = default_dtype(device)
    tokenizer = CLIPTokenizer.from_pretrained(CARD.parent / "weights" / "diffusion" / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=tokenizer.model_max_length,
        )
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, block_out_channels=channels)
    vae = AutoencoderKL(
        block_out_channels=vae_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return StableDiffusionPipeline(
        vae=prepare(vae, device, dtype),
        text_encoder=prepare(text_encoder, device, dtype),
        tokenizer=tokenizer,
        unet=prepare(unet, device, dtype),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def measure(classes: int, device: torch.device) -> Iterator[tuple[str, str]]:
    pipeline = make_pipeline(device)
    clip = load_clip(load_preset("toy").model_ids("clip"), device)
    settings = DiffSegmenterSettings(height=_SIDE, width=_SIDE, presence=0.0)
    method = DiffSegmenterMethod(pipeline, clip, TEMPLATES, settings)
    prompts = method.encode_classes(parse_classes(list(THINGS[:classes])))
    image = draw_scene(scene_rng("validation", 0), _SIDE).image
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with PeakMemory() as peak:
        _, present = method.score_image(image, prompts)
    above = peak.megabytes
    if device.type == "cuda":
        above = (torch.cuda.max_memory_allocated() - before) / 1e6
    yield f"**peak memory above the weights, {len(present)} classes, MB**", f"{above:.0f}"


def table(classes: int, device: torch.device) -> Iterator[str]:
    yield (
        f"`python benchmarks/diffsegmenter.py --write`: networks of Stable Diffusion 1.5's shapes, "
        f"{_SIDE} px, {DiffSegmenterSettings(height=_SIDE, width=_SIDE).batch} classes per pass. "
        f"{machine(device)}."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    for what, value in measure(classes, device):
        yield f"| {what} | {value} |"


@click.command(context_settings={"show_default": True})
@click.option("--classes", type=int, default=20)
@click.option("--device", default="auto")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(classes: int, device: str, write: bool) -> None:
    """Prints the table."""
    head = ["## Memory of DiffSegmenter", ""]
    publish("diffsegmenter", head, table(classes, choose_device(device)), write=write)


if __name__ == "__main__":
    main()
