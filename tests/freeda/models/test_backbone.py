from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets import load_preset
from tests.freeda.material import changed_copy

CPU = torch.device("cpu")


def test_dense_features_are_the_normalised_patch_tokens(backbone_folder: Path) -> None:
    backbone = load_backbone([str(backbone_folder)], CPU)
    images = torch.rand(2, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    found = backbone.dense_features(images, 56)
    network = timm.create_model(f"local-dir:{backbone_folder}", pretrained=True, dynamic_img_size=True).eval()
    with torch.no_grad():
        tokens = network.forward_features((images - 0.5) / 0.25)[:, network.num_prefix_tokens :]
    assert network.num_prefix_tokens == 5
    expected = tokens.transpose(1, 2).reshape(2, -1, 4, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_dense_features_keep_the_aspect(backbone_folder: Path) -> None:
    backbone = load_backbone([str(backbone_folder)], CPU)
    assert backbone.dense_features(torch.rand(1, 3, 30, 60), 56).shape == (1, 32, 4, 8)
    assert backbone.dense_features(torch.rand(1, 3, 61, 30), 56).shape == (1, 32, 8, 4)


def test_an_xcit_from_a_folder_takes_any_size(tmp_path: Path) -> None:
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "cls_attn_layers": 0}
    config = {"architecture": "xcit_nano_12_p16_224", "num_classes": 0, "model_args": arguments}
    statistics = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": statistics}))
    torch.manual_seed(3)
    network = timm.create_model("xcit_nano_12_p16_224", num_classes=0, **arguments).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    backbone = load_backbone([str(tmp_path)], CPU)
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = network.forward_features((images - 0.5) / 0.25)[:, 1:]
    found = backbone.dense_features(images, 64)
    np.testing.assert_allclose(found, tokens.transpose(1, 2).reshape(1, 32, 4, 6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "kind", "patch", "prefix"),
    [
        ("sd15-vitb", "VisionTransformer", 14, 1),
        ("sd15-dinov3b", "Eva", 16, 5),
        ("sd15-pe-spatial", "Eva", 16, 1),
        ("sd15-tipsv2", "VisionTransformer", 14, 2),
        ("sdxl-dinov3l", "Eva", 16, 5),
    ],
)
def test_a_preset_s_backbone_of_two_thin_blocks_gives_its_patches(
    preset: str, kind: str, patch: int, prefix: int, tmp_path: Path
) -> None:
    """The architecture that timm has for the id, cut down, in the format of a downloaded folder."""
    (model_id,) = load_preset(preset).model_ids("backbone")
    assert model_id in timm.list_pretrained(model_id)
    architecture = model_id.split(".")[0]
    arguments = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    torch.manual_seed(5)
    network = timm.create_model(architecture, num_classes=0, dynamic_img_size=True, **arguments).eval()
    assert type(network).__name__ == kind and network.num_prefix_tokens == prefix
    statistics = {name: network.pretrained_cfg.get(name) for name in ("input_size", "fixed_input_size")}
    statistics |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    config = {"architecture": architecture, "num_classes": 0, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": statistics}))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    backbone = load_backbone([str(tmp_path)], CPU)
    assert (backbone.patch_size, backbone.width) == (patch, 48)
    images = torch.rand(1, 3, 4 * patch, 6 * patch, generator=torch.Generator().manual_seed(0))
    found = backbone.dense_features(images, 4 * patch)
    with torch.no_grad():
        tokens = network.forward_features((images - 0.5) / 0.25)[:, prefix:]
    expected = tokens.transpose(1, 2).reshape(1, 48, 4, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_patch_embeddings_of_a_resnet_pass_its_values_and_projection(
    clip_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "resnet"
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {
        "image_size": 64,
        "patch_size": None,
        "width": 8,
        "layers": [1, 1, 1, 1],
        "head_width": 64,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").unlink()
    torch.manual_seed(4)
    network, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    clip = load_clip([str(folder)], CPU)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tower = clip.network.visual
    with torch.no_grad():
        features = (images - 0.48) / 0.27
        for part in (tower.stem, tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            features = part(features)
    grid = features.permute(0, 2, 3, 1).double().numpy()
    pool = {name: value.double().numpy() for name, value in tower.attnpool.state_dict().items()}
    values = grid @ pool["v_proj.weight"].T + pool["v_proj.bias"]
    expected = values @ pool["c_proj.weight"].T + pool["c_proj.bias"]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    found = clip.embed_patches(images)
    assert found.shape == (2, 32, 2, 2)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), expected, rtol=1e-3, atol=1e-5)


def test_fingerprints_tell_models_apart_and_survive_precision(
    clip_folder: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    single = load_backbone([str(backbone_folder)], CPU)
    for shorter in (torch.float16, torch.bfloat16):
        assert load_backbone([str(backbone_folder)], CPU, shorter).fingerprint() == single.fingerprint()
    assert single.fingerprint() != load_clip([str(clip_folder)], CPU).fingerprint()
    other = changed_copy(backbone_folder, tmp_path / "other")
    assert load_backbone([str(other)], CPU).fingerprint() != single.fingerprint()
