"""Tiny random-weight models in the formats of the real ones, and other shared material."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

# The suite runs in two processes. With more threads than cores, threads that wait for one another spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from freeda.presets.settings import FreedaSettings, Localization, Preset, Superpixels, Synthesis
from freeda.presets.toml import to_toml
from freeda.toyworld.captions import describe
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.train.tokenizer import train_tokenizer

WIDTH = 32
SD15 = {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
}
SD21 = SD15 | {"attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """A CLIP tokenizer that knows the toy world's words."""
    texts = []
    for number in range(300):
        rng = scene_rng("train", number)
        texts.append(describe(draw_scene(rng, 32), rng))
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer"))


def make_pipeline(tokenizer: CLIPTokenizer, folder: Path, *, version: str) -> Path:
    """A Stable Diffusion with the block types of SD 1.5 (epsilon) or SD 2.1 (v), 64 px at scale 8."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
        **(SD15 if version == "sd15" else SD21),
    )
    vae = AutoencoderKL(
        block_out_channels=(16,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
    )
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    if version == "sd15":
        scheduler = DDIMScheduler(**schedule, clip_sample=False)
    else:
        scheduler = EulerDiscreteScheduler(**schedule, prediction_type="v_prediction")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@pytest.fixture(scope="session", params=["sd15", "sd21"])
def any_pipeline_folder(
    request: pytest.FixtureRequest, tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_pipeline(tokenizer, tmp_path_factory.mktemp(request.param), version=request.param)


@pytest.fixture(scope="session")
def pipeline_folder(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tokenizer, tmp_path_factory.mktemp("diffusion"), version="sd15")


@pytest.fixture(scope="session")
def clip_folder(tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip ViT of 32 px with patches of 8."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer.save_pretrained(folder)
    config = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": WIDTH, "layers": 2, "head_width": 16},
        "text_cfg": {
            "context_length": tokenizer.model_max_length,
            "vocab_size": len(tokenizer),
            "width": WIDTH,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": "tiny",
        },
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.48] * 3, "std": [0.27] * 3}})
    )
    torch.manual_seed(1)
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2-style ViT: patch 14, a class token, four registers."""
    folder = tmp_path_factory.mktemp("backbone")
    arguments = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "img_size": 56, "init_values": 0.5}
    architecture = "vit_small_patch14_reg4_dinov2"
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": WIDTH,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 56, 56], "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(2)
    network = timm.create_model(architecture, num_classes=0, **arguments)
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """$FREEDA_HOME of all tests, also of the commands that they start."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREEDA_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_preset(home: Path, pipeline_folder: Path, clip_folder: Path, backbone_folder: Path) -> Preset:
    """All three tiny models, with numbers small enough for tests; accepts any mask.

    It is one of this machine's own presets, so that indexes may name its models.
    """
    preset = Preset(
        name="tiny",
        description="Random weights.",
        models={
            "diffusion": (str(pipeline_folder),),
            "clip": (str(clip_folder),),
            "backbone": (str(backbone_folder),),
        },
        synthesis=Synthesis(height=64, width=64, steps=2, guidance_scale=3.0, batch=3),
        localization=Localization(min_area=0.0, max_area=1.0, min_peak=1.0),
        segmentation=FreedaSettings(
            short_side=56,
            window=56,
            stride=28,
            dense_size=56,
            neighbors=3,
            superpixels=Superpixels(scale=50, sigma=0.5, min_size=10),
        ),
    )
    (home / "presets").mkdir()
    (home / "presets" / "tiny.toml").write_text(to_toml(preset))
    return preset


CAPTIONS = [
    "a red cat and a dog on the grass",
    "two birds in the sky",
    "a fire truck and a hot dog on a beach",
    "quickly and slowly",
    "a green apple, a banana and a blue cup on wood",
    "",
    "an owl in the snow",
]


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    """Seven captions; one without nouns, one empty."""
    path = tmp_path / "captions.parquet"
    ids = [f"c{number}" for number in range(len(CAPTIONS))]
    pq.write_table(pa.table({"id": ids, "caption": CAPTIONS}), path)
    return path
