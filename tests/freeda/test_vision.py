from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch

from freeda.text import load_clip
from freeda.vision import embed_images, embed_patches, load_backbone

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


def test_global_embedding_is_clip_s_on_the_squashed_image(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip.network.encode_image((images - 0.48) / 0.27, normalize=True)
    np.testing.assert_allclose(embed_images(clip, images), expected, rtol=1e-4, atol=1e-6)
    assert embed_images(clip, torch.rand(1, 3, 50, 20)).shape == (1, 32)


def test_patch_embeddings_are_unit_vectors_on_the_grid(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    patches = embed_patches(clip, torch.rand(1, 3, 32, 32))
    assert patches.shape == (1, 32, 4, 4)
    np.testing.assert_allclose(patches.norm(dim=1), 1.0, rtol=1e-5)


def test_fingerprints_tell_models_apart_and_survive_precision(
    clip_folder: Path, backbone_folder: Path
) -> None:
    single = load_backbone([str(backbone_folder)], CPU)
    half = load_backbone([str(backbone_folder)], CPU, torch.float16)
    assert single.fingerprint() == half.fingerprint()
    assert single.fingerprint() != load_clip([str(clip_folder)], CPU).fingerprint()
    with torch.no_grad():
        single.network.blocks[0].mlp.fc1.weight += 0.01
    assert single.fingerprint() != half.fingerprint()
