from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from freeda.index.reader import PrototypeIndex
from freeda.presets import load_preset
from index_build.generation.samples import draw_sample
from index_build.report import spread, write_report
from tests.freeda.material import random_prototypes, write_index


def test_a_sample_shows_the_picture_and_then_each_mask() -> None:
    pixels = np.full((60, 80, 3), 200, np.uint8)
    left = np.zeros((60, 80), bool)
    left[:, :40] = True
    sample = draw_sample("a cat and a dog", pixels, ["cat", "dog"], [left, ~left])
    strip = np.asarray(Image.open(io.BytesIO(sample.strip)).convert("RGB")).astype(int)
    assert strip.shape == (60, 240, 3)
    means = [strip[10:50, start + 10 : start + 30].mean() for start in range(0, 240, 40)]
    np.testing.assert_allclose(means, [200, 200, 200, 50, 50, 200], atol=6)


def test_the_report_is_one_file_with_its_pictures_inside(tmp_path: Path) -> None:
    weights = {"diffusion": "d", "clip": "c", "backbone": "b"}
    prototypes = random_prototypes(100, 8, 6)
    index = PrototypeIndex.open(write_index(tmp_path / "i", prototypes, load_preset("toy"), weights))
    pixels = np.zeros((32, 32, 3), np.uint8)
    sample = draw_sample("a <cat> & a dog", pixels, ["cat"], [pixels[..., 0] == 0])
    path = write_report(index.folder, index.manifest, {"no nouns": 3, "picture is blank": 1}, [sample] * 2)
    page = path.read_text()
    pictures = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", page)
    assert [Image.open(io.BytesIO(base64.b64decode(item))).format for item in pictures] == [
        "WEBP",
        "WEBP",
        "PNG",
        "PNG",
        "PNG",
        "PNG",
    ]
    assert "a &lt;cat&gt; &amp; a dog" in page
    assert "<cat>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "noun 1 (15)" in page
    PrototypeIndex.open(index.folder, verify=True)


def test_what_is_shown_is_spread_evenly() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread([], 4) == []
