"""The presets' newer CLIPs: each architecture cut down, with random weights, in its own format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from freeda.presets import load_preset
from tests.tiny_pipelines import t5_tokenizer

SMALL: dict[str, dict[str, Any]] = {
    "sd15-metaclip": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "sd15-dfn": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "sd15-pe-core": {"timm_model_name": "vit_pe_core_tiny_patch16_384", "image_size": 384},
    "sd15-siglip2": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224},
}
"""What is smaller in the image tower."""


def make_clip(preset: str, tokenizer: CLIPTokenizer, folder: Path) -> Path:
    """The architecture that open_clip has for a preset's id, cut down."""
    words: PreTrainedTokenizerBase = tokenizer
    if preset == "sd15-siglip2":
        words = t5_tokenizer()  # of SentencePiece and without a start token, as Gemma's
    architecture, _, pretrained = load_preset(preset).model_ids("clip")[0].partition("@")
    assert pretrained in open_clip.list_pretrained_tags_by_model(architecture)
    config = open_clip.get_model_config(architecture)
    config["vision_cfg"] |= SMALL[preset]
    config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2, "vocab_size": len(words)}
    config["text_cfg"] |= {"context_length": 40, "hf_tokenizer_name": "tiny"}
    config["embed_dim"] = 192 if preset == "sd15-siglip2" else 32
    folder.mkdir(exist_ok=True)
    words.save_pretrained(folder)
    statistics = {"mean": [0.48] * 3, "std": [0.27] * 3}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": statistics})
    )
    torch.manual_seed(1)
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder
