from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from freeda.index.reader import PrototypeIndex
from freeda.presets import load_preset
from index_build.generation.samples import KINDS, Overlaps, SamplePicker, draw_sample
from index_build.report import Inspected, spread, write_report
from tests.freeda.material import random_prototypes, write_index


def picture_and_masks() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    pixels = np.full((60, 80, 3), 200, np.uint8)
    left = np.zeros((60, 80), bool)
    left[:, :40] = True
    return pixels, {"cat": left, "dog": ~left}


def test_a_sample_shows_the_picture_and_then_each_mask() -> None:
    pixels, masks = picture_and_masks()
    sample = draw_sample("a cat and a dog", pixels, masks, 2.0)
    strip = np.asarray(Image.open(io.BytesIO(sample.strip)).convert("RGB")).astype(int)
    assert strip.shape == (60, 240, 3)
    means = [strip[10:50, start + 10 : start + 30].mean() for start in range(0, 240, 40)]
    np.testing.assert_allclose(means, [200, 200, 200, 50, 50, 200], atol=6)


def test_a_shard_keeps_its_first_its_sharpest_and_its_weakest_image() -> None:
    pixels, masks = picture_and_masks()
    picker = SamplePicker()
    for number, peak in enumerate([3.0, 5.0, 1.5, 4.0, 2.0]):
        shade = np.full_like(pixels, 40 * number)
        picker.offer(f"caption {number}", shade, masks, {"cat": peak - 0.5, "dog": peak + 0.5, "bus": 99})
    found = {sample.kind: (sample.caption, sample.peak) for sample in picker.samples()}
    assert found == {
        "first": ("caption 0", 3.0),
        "sharpest": ("caption 1", 5.0),
        "weakest": ("caption 2", 1.5),
    }
    alone = SamplePicker()
    alone.offer("a cat", pixels, masks, {"cat": 1.0, "dog": 1.0})
    assert [sample.kind for sample in alone.samples()] == ["first"]
    assert SamplePicker().samples() == []


def test_masks_that_cover_the_same_pixels_are_counted() -> None:
    _, masks = picture_and_masks()
    overlaps = Overlaps()
    overlaps.add(masks)
    overlaps.add({**masks, "pup": masks["dog"], "all": np.ones((60, 80), bool)})
    overlaps.add({"cat": masks["cat"]})
    assert (overlaps.pairs, overlaps.same) == (7, 1)  # half of an image is not above one half of all of it


def small_index(folder: Path) -> PrototypeIndex:
    weights = {"diffusion": "d", "clip": "c", "backbone": "b"}
    return PrototypeIndex.open(write_index(folder, random_prototypes(100, 8, 6), load_preset("toy"), weights))


def test_the_report_is_one_file_with_its_pictures_inside(tmp_path: Path) -> None:
    index = small_index(tmp_path / "i")
    pixels = np.zeros((32, 32, 3), np.uint8)
    sample = draw_sample("a <cat> & a dog", pixels, {"cat": pixels[..., 0] == 0}, 2.0)
    inspected = Inspected(rejects={"no nouns": 3, "picture is blank": 1}, samples=[sample] * 2)
    page = write_report(index.folder, index.manifest, inspected).read_text()
    pictures = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", page)
    formats = [Image.open(io.BytesIO(base64.b64decode(item))).format for item in pictures]
    assert formats == ["WEBP"] * 2 + ["PNG"] * 4
    assert "a &lt;cat&gt; &amp; a dog" in page
    assert "<cat>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "noun 1 (15)" in page
    assert page.count("Good: ") == page.count("Bad: ") == 4
    assert 'class="warning"' not in page
    PrototypeIndex.open(index.folder, verify=True)


def test_the_report_shows_the_worst_and_warns_of_masks_that_are_all_the_same(tmp_path: Path) -> None:
    index = small_index(tmp_path / "i")
    pixels, masks = picture_and_masks()
    samples = [
        replace(draw_sample(f"caption {number:02}", pixels, masks, float(number)), kind=kind)
        for number in range(20)
        for kind in KINDS
    ]
    inspected = Inspected(rejects={}, samples=samples, mask_pairs=10, same_masks=6)
    page = write_report(index.folder, index.manifest, inspected).read_text()
    assert "60% of the pairs of masks of one image cover the same pixels" in page
    typical, weakest, sharpest = (re.findall(r"caption (\d\d)", part) for part in re.split(r"<h3>", page)[1:])
    assert len(typical) == 12
    assert weakest == [f"{number:02}" for number in range(8)]
    assert sharpest == [f"{number:02}" for number in range(19, 11, -1)]


def test_what_is_shown_is_spread_evenly() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []
