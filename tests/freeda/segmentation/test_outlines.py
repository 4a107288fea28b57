"""Masks of annotation formats, against pycocotools, numpy and the formats' own writers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from pycocotools import mask as coco

from freeda.segmentation.label_studio import packed_runs
from freeda.segmentation.outlines import box_mask, coco_mask, polygon_mask, stroke_mask, unpacked_runs

SIZE = (37, 53)


@pytest.fixture
def mask() -> np.ndarray:
    rng = np.random.default_rng(1)
    found = rng.random(SIZE) < 0.1
    found[5:20, 7:40] = True
    return found


def test_a_box_holds_the_pixels_whose_centres_it_holds() -> None:
    expected = np.zeros(SIZE, bool)
    expected[3:8, 2:6] = True
    np.testing.assert_array_equal(box_mask([2, 3, 4, 5], SIZE), expected)
    np.testing.assert_array_equal(box_mask([1.6, 2.6, 4, 5], SIZE), expected)
    assert box_mask([-5, -5, 100, 100], SIZE).all()


@pytest.mark.parametrize("width", [1, 3, 4, 9.5])
def test_a_stroke_covers_what_lies_within_half_its_width(width: float) -> None:
    """But for pixels at its border, whose centres are within one and a half pixels of that."""
    points = np.array([[5.5, 5.5], [30.2, 20.9], [30.2, 33.0], [47.0, 30.0]])
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    centres = np.stack([columns, rows], -1)
    shares = np.linspace(0, 1, 400)[:, None]
    along = np.concatenate([a + shares * (b - a) for a, b in pairwise(points)])
    away = np.sqrt(((centres[:, :, None] - along) ** 2).sum(-1)).min(-1)
    found = stroke_mask(points.tolist(), width, SIZE)
    assert found[away <= width / 2 - 1.5].all() and not found[away > width / 2 + 1.5].any()
    assert found.any()


def test_a_stroke_of_one_point_is_a_dot() -> None:
    found = stroke_mask([[20.5, 10.5]], 7, SIZE)
    assert found[10, 20] and found.sum() == pytest.approx(np.pi * 3.5**2, rel=0.3)
    with pytest.raises(ValueError, match="no width"):
        stroke_mask([[20.5, 10.5]], 0, SIZE)


def test_a_polygon_of_a_box_is_the_box_and_a_circle_has_its_area() -> None:
    corners = np.array([[2, 3], [20, 3], [20, 30], [2, 30]])
    np.testing.assert_array_equal(
        polygon_mask([corners + [0.6, 0.6]], SIZE)[4:29, 3:19], np.ones((25, 16), bool)
    )
    turns = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([25 + 12 * np.cos(turns), 18 + 12 * np.sin(turns)], 1)
    assert polygon_mask([circle], SIZE).sum() == pytest.approx(np.pi * 144, rel=0.1)
    both = polygon_mask([corners[:3], circle], SIZE)
    np.testing.assert_array_equal(both, polygon_mask([corners[:3]], SIZE) | polygon_mask([circle], SIZE))


def test_polygons_are_those_of_pycocotools_but_for_their_borders() -> None:
    turns = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    star = np.stack([26 + (8 + 10 * (turns * 7 % 2)) * np.cos(turns), 18 + 12 * np.sin(turns)], 1)
    outline = [star.ravel().tolist()]
    own, theirs = coco_mask(outline, SIZE), coco.decode(coco.merge(coco.frPyObjects(outline, *SIZE))) > 0
    assert (own & theirs).sum() / (own | theirs).sum() > 0.85


def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": list(SIZE), "counts": compressed["counts"].decode()}
    np.testing.assert_array_equal(coco_mask(text, SIZE), mask)
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    plain = {"size": list(SIZE), "counts": counts if not flat[0] else [0, *counts]}
    np.testing.assert_array_equal(coco_mask(plain, SIZE), mask)
    with pytest.raises(ValueError, match="a run length of .37, 53. on an image of .10, 10."):
        coco_mask(text, (10, 10))


@pytest.mark.parametrize(
    "outline", [[[]], [[1, 2, 3, 4]], [[0, 0, float("nan"), 3, 5, 5]], [[0, 0, 1e9, 3, 5, 5]]]
)
def test_polygons_that_are_none_are_refused(outline: list) -> None:
    with pytest.raises(ValueError, match="a polygon of fewer than three corners, or one far outside"):
        coco_mask(outline, SIZE)


@pytest.mark.parametrize("counts", [[10**13], [5, 7], [-1, 1962], []])
def test_run_lengths_of_other_images_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="a run length of another number of pixels"):
        coco_mask({"size": list(SIZE), "counts": counts}, SIZE)


def test_a_brush_is_read_as_it_was_written(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(unpacked_runs(packed_runs(mask), SIZE), mask)
    with pytest.raises(ValueError, match="a brush that is cut off"):
        unpacked_runs(packed_runs(mask)[:30], SIZE)
    with pytest.raises(ValueError, match="a brush of 1,961 pixels on an image of 100"):
        unpacked_runs(packed_runs(mask), (10, 10))


def test_a_brush_may_list_single_values() -> None:
    """Label Studio's own encoder writes values that do not repeat one by one."""
    values = [0, 0, 0, 255, 0, 0, 0, 0]  # two pixels, RGBA
    bits = f"{8:032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    bits += "0" + "00" + f"{7:03b}" + "".join(f"{value:08b}" for value in values)
    packed = [int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8)]
    np.testing.assert_array_equal(unpacked_runs(packed, (1, 2)), [[True, False]])
