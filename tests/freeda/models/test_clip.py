from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from freeda.class_names import ClassName
from freeda.models.clip import load_clip

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}.", "art of the {}.")


def test_class_embedding_is_the_normalised_mean_over_templates_and_synonyms(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    prompts = [t.format(name) for name in ("cat", "kitten") for t in TEMPLATES]
    with torch.no_grad():
        raw = clip.network.encode_text(clip.tokenize(prompts)).double().numpy()
    expected = raw.mean(0) / np.linalg.norm(raw.mean(0))
    found = clip.embed_classes([ClassName("dog"), ClassName("cat", ("kitten",))], TEMPLATES)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-6)
    assert abs(found[0] - found[1]).max() > 1e-3


def test_embedding_the_end_token_equals_the_text_embedding(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "a red cat on the grass"
    end = int(clip.tokenize([text])[0].argmax())
    np.testing.assert_allclose(
        clip.embed_tokens([text])[0][end], clip.embed_texts([text])[0], rtol=1e-4, atol=1e-5
    )


def test_global_embedding_is_clip_s_on_the_squashed_image(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = clip.network.encode_image((images - 0.48) / 0.27, normalize=True)
    np.testing.assert_allclose(clip.embed_images(images), expected, rtol=1e-4, atol=1e-6)
    assert clip.embed_images(torch.rand(1, 3, 50, 20)).shape == (1, 32)


def test_patch_embeddings_are_unit_vectors_on_the_grid(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    patches = clip.embed_patches(torch.rand(1, 3, 32, 32))
    assert patches.shape == (1, 32, 4, 4)
    np.testing.assert_allclose(patches.norm(dim=1), 1.0, rtol=1e-5)
