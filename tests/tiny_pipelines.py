"""Stable Diffusion XL and 3 with random weights, cut down, in their own formats; 64 px at scale 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

_WIDTH = 32


def make_xl(tokenizer: CLIPTokenizer, folder: Path) -> Path:
    """Two text encoders, whose states are 16 and 32 wide; conditions on the picture's size."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4, 8),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
        cross_attention_dim=16 + _WIDTH,
        norm_num_groups=8,
    )
    StableDiffusionXLPipeline(
        vae=_autoencoder(4),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 16)),
        text_encoder_2=_text_encoder(tokenizer, _WIDTH),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
    ).save_pretrained(folder)
    return folder


def make_sd3(tokenizer: CLIPTokenizer, folder: Path, *, newer: bool = False, t5: bool = True) -> Path:
    """newer: as 3.5, with norms of queries and keys, and a second attention in the first block."""
    torch.manual_seed(0)
    changes = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if newer else {}
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * _WIDTH,
        caption_projection_dim=_WIDTH,
        pooled_projection_dim=2 * _WIDTH,
        out_channels=16,
        pos_embed_max_size=24,
        **changes,
    )
    words = t5_tokenizer()
    width = T5Config(vocab_size=len(words), d_model=2 * _WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_text_encoder(tokenizer, _WIDTH),
        tokenizer=tokenizer,
        text_encoder_2=_text_encoder(tokenizer, _WIDTH),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(width) if t5 else None,
        tokenizer_3=words if t5 else None,
    ).save_pretrained(folder)
    return folder


def _autoencoder(channels: int, **others: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=8,
        **others,
    )


def _text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_text_config(tokenizer, width))


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_tokenizer() -> T5TokenizerFast:
    """Knows a few words whole, and spells the others."""
    words = ("a", "red", "cat", "on", "the", "grass", "an", "owl", "in", "snow", "fire", "truck", "dog")
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz.,()", *(f"▁{word}" for word in words)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(
        vocab=[*special, *((piece, -float(len(pieces) - n)) for n, piece in enumerate(pieces))]
    )
