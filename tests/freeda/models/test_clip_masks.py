"""A part's embedding: of everything it is the image's own, of a part it hears nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from freeda.models.clip import ClipModel, load_clip
from freeda.models.clip_masks import embed_masks
from freeda.presets import load_preset

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["vit", "resnet"])
def clip(request: pytest.FixtureRequest, clip_folder: Path) -> ClipModel:
    ids = (str(clip_folder),) if request.param == "vit" else load_preset("toy").model_ids("clip")
    return load_clip(ids, CPU)


def images(clip: ClipModel) -> torch.Tensor:
    return torch.rand(2, 3, *clip.image_size, generator=torch.Generator().manual_seed(0))


def test_a_vit_s_mask_of_everything_gives_the_image_s_embedding(clip_folder: Path) -> None:
    clip = load_clip((str(clip_folder),), CPU)
    found = embed_masks(clip, images(clip), torch.ones(2, 3, 10, 12))
    expected = clip.embed_images(images(clip))
    for query in range(3):
        torch.testing.assert_close(found[:, query], expected, rtol=1e-4, atol=1e-5)


def test_a_resnet_s_mask_is_the_projected_mean_of_its_values() -> None:
    """Without the positions' own embeddings, a single cell is what CLIP's patches are."""
    clip = load_clip(load_preset("toy").model_ids("clip"), CPU)
    pool = clip.network.visual.attnpool
    with torch.no_grad():
        pool.positional_embedding.zero_()
    patches = clip.embed_patches(images(clip))
    height, width = patches.shape[-2:]
    masks = torch.eye(height * width).reshape(1, -1, height, width).expand(2, -1, -1, -1)
    found = embed_masks(clip, images(clip), masks)
    torch.testing.assert_close(found, patches.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_an_empty_mask_counts_all_positions_alike(clip: ClipModel) -> None:
    empty, full = (
        embed_masks(clip, images(clip), masks) for masks in (torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8))
    )
    torch.testing.assert_close(empty, full, rtol=1e-4, atol=1e-5)


def test_masks_do_not_disturb_one_another(clip: ClipModel) -> None:
    masks = (torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    together = embed_masks(clip, images(clip), masks)
    for query in range(4):
        alone = embed_masks(clip, images(clip), masks[:, query : query + 1])
        torch.testing.assert_close(together[:, query], alone[:, 0], rtol=1e-4, atol=1e-5)


def test_halves_differ_from_each_other_and_from_the_whole(clip: ClipModel) -> None:
    masks = torch.zeros(2, 2, 8, 8)
    masks[:, 0, :, :4], masks[:, 1, :, 4:] = 1, 1
    found = embed_masks(clip, images(clip), masks)
    whole = clip.embed_images(images(clip))
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
    assert (found[:, 0] - whole).abs().max() > 1e-3


def test_larger_inputs_give_unit_vectors(clip: ClipModel) -> None:
    found = embed_masks(clip, images(clip), torch.ones(2, 1, 8, 8), scale=2.0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 1))
