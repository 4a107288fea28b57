"""Scores and segments against slow and obvious computations of the same."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from freeda.methods.odise.fusion import fuse
from freeda.methods.odise.masks import MaskScores

NAMES = ("cat", "dog", "grass")


def scores(
    stuff: frozenset[int] = frozenset({2}), seed: int = 0, queries: int = 5, overlap: float = 0.3
) -> MaskScores:
    generator = torch.Generator().manual_seed(seed)
    masks = 6 * torch.randn(queries, 6, 8, generator=generator)
    probabilities = (3 * torch.randn(queries, 4, generator=generator)).softmax(1)
    return MaskScores(masks, probabilities[:, :3], probabilities[:, 3], stuff, overlap, most=7)


def enlarged(masks: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return torch.nn.functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize("size", [(6, 8), (17, 23), (3, 4)])
def test_labels_are_the_best_sum_of_probability_times_mask(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.methods.odise.masks._CLASSES_AT_ONCE", 2)
    monkeypatch.setattr("freeda.methods.odise.masks._BAND_BYTES", 600)
    found = scores()
    inside = 1 / (1 + np.exp(-enlarged(found.masks, size)))
    expected = np.einsum("qc,qhw->chw", found.classes.numpy(), inside)
    labels, best = found.best(size, slice(0, 3))
    np.testing.assert_array_equal(labels, expected.argmax(0))
    np.testing.assert_allclose(best, expected.max(0), rtol=1e-5)
    np.testing.assert_allclose(found.best(size, slice(1, 2))[1], expected[1], rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_segments_are_the_pixels_that_their_queries_win(seed: int) -> None:
    found, size = scores(seed=seed), (17, 23)
    logits = enlarged(found.masks, size)
    whole = torch.cat([found.classes, found.nothing[:, None]], 1).numpy()
    kept = [q for q in range(5) if whole[q].argmax() != 3]
    owners = np.argmax([whole[q, :3].max() / (1 + np.exp(-logits[q])) for q in kept], 0)
    expected: list[tuple[int, np.ndarray]] = []
    for place, query in enumerate(kept):
        mask, label = (owners == place) & (logits[query] >= 0), int(whole[query, :3].argmax())
        if mask.sum() == 0 or mask.sum() / (logits[query] >= 0).sum() < 0.3:
            continue
        held = [n for n, (other, _) in enumerate(expected) if other == label == 2]
        if held:
            expected[held[0]] = (label, expected[held[0]][1] | mask)
        else:
            expected.append((label, mask))
    segments = found.panoptic(size, NAMES)
    assert len(segments) == len(expected)
    for item in segments:
        assert any(item.label == label and (item.mask == mask).all() for label, mask in expected)
    assert [int(item.mask.sum()) for item in segments] == sorted(
        (int(item.mask.sum()) for item in segments), reverse=True
    )


def test_a_background_before_the_classes_shifts_their_numbers() -> None:
    plain, shifted = scores().panoptic((9, 9), NAMES), scores().panoptic((9, 9), ("background", *NAMES))
    assert [item.label + 1 for item in plain] == [item.label for item in shifted]
    assert [item.name for item in plain] == [item.name for item in shifted]


def test_queries_that_are_nothing_give_no_segment() -> None:
    classes, nothing = torch.full((2, 3), 0.1), torch.full((2,), 0.7)
    found = MaskScores(torch.ones(2, 4, 4), classes, nothing, frozenset(), overlap=0.8, most=5)
    assert found.panoptic((4, 4), NAMES) == ()


def test_instances_are_scored_by_class_and_mask() -> None:
    found, size = scores(), (6, 8)
    logits = found.masks.numpy()
    pairs = sorted(((float(found.classes[q, c]), q, c) for q in range(5) for c in range(3)), reverse=True)[:7]
    expected = []
    for probability, query, label in pairs:
        inside = logits[query] >= 0
        if label != 2 and inside.any():
            sureness = (1 / (1 + np.exp(-logits[query])))[inside].mean()
            expected.append((round(probability * sureness, 6), label, int(inside.sum())))
    expected.sort(reverse=True)
    got = [(item.score, item.label, int(item.mask.sum())) for item in found.instances(size, NAMES)]
    assert [entry[1:] for entry in got] == [entry[1:] for entry in expected]
    np.testing.assert_allclose([entry[0] for entry in got], [entry[0] for entry in expected], atol=2e-6)


@pytest.mark.parametrize("kind", ["panoptic", "instances"])
def test_segments_of_a_large_image_take_a_bit_per_pixel(kind: str) -> None:
    """Twenty masks of a byte per pixel would be 20 bytes; one map of owners is 4, twenty packed masks 2.5."""
    whole, size = scores(queries=20, overlap=0.0), (1500, 2000)
    tracemalloc.start()
    try:
        found = getattr(whole, kind)(size, NAMES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) >= 3 and found[0].mask.shape == size
    assert peak < 12 * size[0] * size[1]


def test_fusion_is_a_geometric_mean_that_leaves_nothing_alone() -> None:
    one = torch.tensor([[0.7, 0.2, 0.1]])
    two = torch.tensor([[0.1, 0.8, 0.1]])
    share, nothing = torch.tensor([0.3, 0.7, 0.7]), torch.tensor([0.4])
    raw = one.numpy() ** (1 - share.numpy()) * two.numpy() ** share.numpy()
    np.testing.assert_allclose(fuse(one.log(), two.log(), share, nothing), 0.6 * raw / raw.sum(), rtol=1e-5)
