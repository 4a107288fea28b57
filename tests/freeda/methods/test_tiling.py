from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import freeda
from freeda.errors import ExplanationError
from freeda.methods.tiling import tiles
from freeda.toyworld.make_examples import EXAMPLES
from tests.freeda.methods.contract import MethodContract, picture


class TestTiled(MethodContract):
    TOO_LONG = (1, 100)  # a tile of it is

    @pytest.fixture
    def segmenter(self, index_folder: Path) -> freeda.Segmenter:
        return freeda.load(index_folder, native=True)


@pytest.mark.parametrize("size", [(1, 1), (128, 128), (129, 128), (300, 127), (1000, 515)])
@pytest.mark.parametrize("side", [16, 128])
def test_tiles_keep_every_pixel_once_and_away_from_their_borders(size: tuple[int, int], side: int) -> None:
    height, width = size
    kept, margin = np.zeros(size, int), side // 8
    for tile in tiles(height, width, side):
        kept[tile.kept] += 1
        for length, seen, taken in zip(size, tile.seen, tile.kept, strict=True):
            assert seen.stop - seen.start == min(side, length)
            assert taken.start == 0 or taken.start - seen.start >= margin
            assert taken.stop == length or seen.stop - taken.stop >= margin
    assert (kept == 1).all()


def test_a_tile_is_segmented_as_the_image_it_is() -> None:
    """A mosaic of scenes, each as large as the model's images: every scene far from the others' borders is
    segmented as it is by itself.
    """
    scenes = [np.asarray(Image.open(EXAMPLES / f"scene-{n}.png").resize((128, 128))) for n in (1, 2, 3, 4)]
    mosaic = np.vstack([np.hstack(scenes[:2]), np.hstack(scenes[2:])])
    classes = (EXAMPLES / "classes.txt").read_text()
    names = "; ".join(line for line in classes.splitlines() if line.strip())
    whole, tiled = freeda.load("toy"), freeda.load("toy", native=True)
    assert tiled.native_side == 128
    result = tiled.segment(mosaic, names)
    assert result.labels.shape == (256, 256)
    alone = whole.segment(scenes[0], names)
    np.testing.assert_array_equal(result.labels[:112, :112], alone.labels[:112, :112])
    assert result.paths["tiles"] == 9
    one = tiled.segment(scenes[1], names)
    np.testing.assert_array_equal(one.labels, whole.segment(scenes[1], names).labels)
    assert tiled.identity == {**whole.identity, "tiles": 128}


def test_evidence_lies_in_the_whole_image() -> None:
    tiled = freeda.load("toy", native=True)
    scene = np.asarray(Image.open(EXAMPLES / "scene-1.png").resize((128, 128)))
    result = tiled.segment(np.hstack([scene, scene, scene]), "hammer; sky; sand; owl")
    evidence = result.explain(300, 50)
    assert (evidence.x, evidence.y) == (300, 50)
    assert evidence.region.shape == (128, 384) and evidence.region[50, 300]
    assert evidence.candidates[0].name == result.classes[result.labels[50, 300]]
    assert not evidence.region[:, :200].any()
    with pytest.raises(ExplanationError, match="outside"):
        result.explain(384, 0)


def test_tiles_of_several_images_pass_the_models_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = freeda.load("toy", native=True)
    tiled.set_classes("cat; dog")
    seen: list[int] = []
    encode = type(tiled._segmenter.method).encode_images

    def counting(self: object, images: list) -> list:
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(type(tiled._segmenter.method), "encode_images", counting)
    assert len(list(tiled.stream([picture(128, 128) + n for n in range(16)]))) == 16
    assert seen == [8, 8]


def test_backgrounds_are_put_together_too(index_folder: Path) -> None:
    segmenter = freeda.load(index_folder, native=True, background=True, threshold=-2.0)
    result = segmenter.segment(picture(130, 150), "cat; dog")
    assert result.foreground is not None
    labels, scores = result.foreground.decide(-2.0, result.ignore_index)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_array_equal(scores, result.scores)
