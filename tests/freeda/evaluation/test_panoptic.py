"""Panoptic quality against torchmetrics' and panopticapi's, average precision against known answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as Reference

from freeda.evaluation.average_precision import average_precision, compressed
from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.evaluation.coco_panoptic import CocoPanopticDataset
from freeda.evaluation.panoptic import ClassMatches, PanopticQuality, match_segments
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage
from freeda.segmentation.segments import PackedMask, Segment
from tests.freeda.evaluation.panoptic_case import GOLDEN, write_case

THINGS, STUFF = (0, 1), (2, 3)


def blocky(rng: np.random.Generator, count: int, size: tuple[int, int] = (24, 36)) -> np.ndarray:
    """(H, W) numbers below `count`, in rectangles laid over one another."""
    found = np.zeros(size, np.int32)
    for number in range(1, count):
        top, left = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        height, width = rng.integers(4, 16, 2)
        found[top : top + height, left : left + width] = number
    return found


def scene(seed: int) -> tuple[AnnotatedImage, list[Segment]]:
    """A true segmentation, and one that differs a little."""
    rng = np.random.default_rng(seed)
    true = blocky(rng, 7)
    shifted = np.roll(true, tuple(rng.integers(-2, 3, 2)), (0, 1))
    labels = stuff_once(rng.integers(0, 4, 7))
    guessed = np.where(rng.random(7) < 0.8, labels, rng.integers(0, 2, 7))
    present = [number for number in range(7) if (true == number).any()]
    table = np.full(7, UNMARKED)
    table[present] = range(len(present))
    image = np.zeros((*true.shape, 3), np.uint8)
    truth = AnnotatedImage(image, table[true].astype(np.int32), tuple(int(labels[n]) for n in present))
    found = merged([(int(guessed[n]), shifted == n) for n in range(7) if (shifted == n).any()])
    return truth, found


def stuff_once(labels: np.ndarray) -> np.ndarray:
    """Of each kind of stuff there is one segment: later ones become things."""
    for label in STUFF:
        labels[np.flatnonzero(labels == label)[1:]] = 0
    return labels


def merged(parts: list[tuple[int, np.ndarray]]) -> list[Segment]:
    found: list[tuple[int, np.ndarray]] = []
    for label, mask in parts:
        same = [n for n, (other, _) in enumerate(found) if other == label and label in STUFF]
        if same:
            found[same[0]] = (label, found[same[0]][1] | mask)
        else:
            found.append((label, mask))
    return [
        Segment(number, label, str(label), 1.0, PackedMask.of(mask), label in THINGS)
        for number, (label, mask) in enumerate(found, 1)
    ]


def maps(truth: AnnotatedImage, found: list[Segment]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as torchmetrics takes them: a category and an instance per pixel."""
    true = np.stack([np.array(truth.labels)[truth.segments], truth.segments], -1)
    guess = np.zeros_like(true)
    for item in found:
        guess[item.mask] = (item.label, item.id)
    return torch.from_numpy(guess)[None], torch.from_numpy(true)[None]


def test_it_equals_torchmetrics_over_many_images() -> None:
    reference = Reference(things=set(THINGS), stuffs=set(STUFF), return_per_class=True)
    overall = Reference(things=set(THINGS), stuffs=set(STUFF), return_sq_and_rq=True)
    total = PanopticQuality(4)
    for seed in range(40):
        truth, found = scene(seed)
        guess, true = maps(truth, found)
        reference.update(guess, true)
        overall.update(guess, true)
        total.add(match_segments(truth, found))
    np.testing.assert_allclose(total.per_class()[:, 0], reference.compute().numpy()[0], atol=1e-5)
    np.testing.assert_allclose(total.mean(), overall.compute().numpy(), atol=1e-5)
    assert 0.2 < total.mean()[0] < 0.9


def golden_case(folder: Path) -> list[tuple[AnnotatedImage, list[Segment]]]:
    write_case(folder)
    truths = CocoPanopticDataset.open(folder / "truth.json")
    guesses = CocoPanopticDataset.open(folder / "found.json")
    pairs = []
    for number in range(len(truths)):
        guess = guesses.annotated(number)
        found = [segment(label, guess.segments == n, n + 1) for n, label in enumerate(guess.labels)]
        pairs.append((truths.annotated(number), found))
    return pairs


def test_it_equals_panopticapi_with_crowds_and_unmarked_pixels(tmp_path: Path) -> None:
    pairs = golden_case(tmp_path)
    total, without_crowds = PanopticQuality(4), PanopticQuality(4)
    for truth, found in pairs:
        total.add(match_segments(truth, found))
        without_crowds.add(match_segments(replace(truth, crowds=frozenset()), found))
    # The sums of IoU are kept to six digits.
    np.testing.assert_allclose(total.per_class(), GOLDEN, atol=1e-6)
    assert np.abs(without_crowds.per_class() - GOLDEN).max() > 0.05


def segment(label: int, mask: np.ndarray, number: int = 1) -> Segment:
    return Segment(number, label, str(label), 1.0, PackedMask.of(mask), True)


def test_unmarked_pixels_count_for_nothing() -> None:
    """A segment half on unmarked pixels has the IoU of its other half; one mostly there is left out."""
    truth = np.zeros((4, 8), np.int32)
    truth[:, 4:] = UNMARKED
    annotated = AnnotatedImage(np.zeros((4, 8, 3), np.uint8), truth, (1,))
    everything, right = np.ones((4, 8), bool), np.zeros((4, 8), bool)
    right[:, 4:] = True
    assert match_segments(annotated, [segment(1, everything)]) == [ClassMatches(1, 1.0, 1, 0, 0)]
    assert match_segments(annotated, [segment(0, right)]) == [ClassMatches(1, 0.0, 0, 0, 1)]


def test_a_segment_half_on_a_crowd_is_spurious_and_one_mostly_there_is_not() -> None:
    crowd = np.zeros((4, 8), np.int32)
    crowd[:, 4:] = 1
    annotated = AnnotatedImage(np.zeros((4, 8, 3), np.uint8), crowd, (0, 1), crowds=frozenset({1}))
    half, more = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    half[:, 2:6], more[:, 3:6] = True, True
    missed = ClassMatches(0, 0.0, 0, 0, 1)
    assert match_segments(annotated, [segment(1, half)]) == [missed, ClassMatches(1, 0.0, 0, 1, 0)]
    assert match_segments(annotated, [segment(1, more)]) == [missed]
    assert match_segments(annotated, [segment(0, more)]) == [ClassMatches(0, 0.0, 0, 1, 1)]


def test_a_match_must_exceed_one_half_and_share_the_class() -> None:
    annotated = AnnotatedImage(np.zeros((4, 8, 3), np.uint8), np.zeros((4, 8), np.int32), (1,))
    half, more = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    half[:, :4], more[:, :5] = True, True
    assert match_segments(annotated, [segment(1, half)]) == [ClassMatches(1, 0.0, 0, 1, 1)]
    assert match_segments(annotated, [segment(1, more)]) == [ClassMatches(1, 0.625, 1, 0, 0)]
    assert match_segments(annotated, [segment(0, more)]) == [
        ClassMatches(0, 0.0, 0, 1, 0),
        ClassMatches(1, 0.0, 0, 0, 1),
    ]


def test_classes_that_never_occur_do_not_count() -> None:
    total = PanopticQuality(3)
    total.add([ClassMatches(0, 1.6, 2, 1, 1)])
    assert np.isnan(total.per_class()[1:]).all()
    assert total.mean() == pytest.approx((1.6 / 3, 0.8, 2 / 3))
    assert np.isnan(total.mean([1, 2])[0])


def test_average_precision_has_known_answers() -> None:
    """Two things of one class: one found exactly, one missed; a false one of lower score changes nothing."""
    segments = np.full((20, 20), UNMARKED, np.int32)
    segments[2:8, 2:8], segments[12:18, 12:18] = 0, 1
    truth = AnnotatedImage(np.zeros((20, 20, 3), np.uint8), segments, (0, 0))
    false = np.zeros((20, 20), bool)
    false[0:5, 12:18] = True
    found = [(0, 0.9, *compressed(segments == 0)), (0, 0.3, *compressed(false))]
    ap = average_precision([truth], [found], [0])
    assert ap.ap == ap.ap50 == pytest.approx(51 / 101, abs=1e-6)  # recall one half, of COCO's 101 points
    both = [*found, (0, 0.8, *compressed(segments == 1))]
    assert average_precision([truth], [both], [0]).ap == pytest.approx(1)
    assert average_precision([truth], [[]], [0]).ap == 0
    assert np.isnan(average_precision([truth], [found], [3]).ap)
    # Of a crowd, any part counts neither for nor against (COCO).
    crowd = replace(truth, crowds=frozenset({1}))
    part = np.zeros((20, 20), bool)
    part[13:15, 13:15] = True
    found = [*found, (0, 0.95, *compressed(part))]
    assert average_precision([crowd], [found], [0]).ap == pytest.approx(1)


def accuracy(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[:, 0] / sums.sum(1)


def test_the_bootstrap_knows_a_difference_from_chance() -> None:
    rng = np.random.default_rng(0)
    base = rng.binomial(100, 0.5, 300)
    better = base + rng.integers(0, 3, 300)
    same = rng.permutation(base)
    counts = [np.stack([hits, 100 - hits], 1) for hits in (base, better, same)]
    clear = paired_bootstrap(counts[1], counts[0], accuracy)
    assert clear.is_clear and clear.low < clear.difference < clear.high
    assert clear.difference == pytest.approx((better - base).mean())
    assert not paired_bootstrap(counts[2], counts[0], accuracy).is_clear
    # The known standard error of a mean: 1.96 of it on either side.
    error = (better - base).std() / np.sqrt(300)
    assert clear.high - clear.low == pytest.approx(2 * 1.96 * error, rel=0.05)
