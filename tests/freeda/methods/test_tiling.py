from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import freeda
from freeda.errors import ExplanationError
from freeda.methods.tiling import tiles
from freeda.toyworld import STUFF, THINGS
from freeda.toyworld.make_examples import EXAMPLES
from freeda.toyworld.scenes import draw_scene, scene_rng
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


def scenes(*numbers: int) -> list[np.ndarray]:
    """As large as the toy models' images."""
    return [
        np.asarray(Image.open(EXAMPLES / f"scene-{n}.png").convert("RGB").resize((128, 128))) for n in numbers
    ]


NAMES = "; ".join((EXAMPLES / "classes.txt").read_text().split("\n")).strip("; ")


def test_an_image_up_to_the_side_of_a_tile_is_cut_into_windows_as_it_is() -> None:
    """As by the method whose images are as large."""
    mosaic = np.vstack([np.hstack(scenes(1, 2, 3)), np.hstack(scenes(4, 5, 6))])
    native = freeda.load("toy", native=True).segment(mosaic, NAMES)
    assert native.paths["tiles"] == 1
    resized = freeda.load("toy", short_side=256).segment(mosaic, NAMES)
    np.testing.assert_array_equal(native.labels, resized.labels)
    (scene,) = scenes(6)
    small = freeda.load("toy", native=True).segment(scene, NAMES)
    np.testing.assert_array_equal(small.labels, freeda.load("toy").segment(scene, NAMES).labels)


def test_small_things_are_found_that_resizing_loses() -> None:
    """Twelve scenes side by side, each thing as large as the models know it."""
    drawn = [draw_scene(scene_rng("validation", number), 128) for number in range(12)]
    image = np.vstack([np.hstack([item.image for item in drawn[row : row + 4]]) for row in (0, 4, 8)])
    truth = np.vstack([np.hstack([item.labels for item in drawn[row : row + 4]]) for row in (0, 4, 8)])
    names = [*THINGS, *STUFF]
    right = {
        native: (freeda.load("toy", native=native).segment(image, names).labels == truth).mean()
        for native in (False, True)
    }
    assert right[True] > 0.85 and right[False] < right[True] - 0.1


def test_a_tile_is_segmented_as_the_image_it_is() -> None:
    tiled = freeda.load("toy", native=True)
    assert tiled.native_side == 512
    wide = np.hstack(scenes(1, 2, 3, 4, 5, 6))
    result = tiled.segment(wide, NAMES)
    assert result.paths["tiles"] == 2
    first = tiled.segment(wide[:, :512], NAMES)
    np.testing.assert_array_equal(result.labels[:, :448], first.labels[:, :448])
    assert tiled.identity["tiles"] == 512


def test_evidence_lies_in_the_whole_image() -> None:
    tiled = freeda.load("toy", native=True)
    result = tiled.segment(np.hstack(scenes(1, 1, 1, 1, 1, 1)), "hammer; sky; sand; owl")
    assert result.paths["tiles"] == 2
    evidence = result.explain(700, 50)
    assert (evidence.x, evidence.y) == (700, 50)
    assert evidence.region.shape == (128, 768) and evidence.region[50, 700]
    assert evidence.candidates[0].name == result.classes[result.labels[50, 700]]
    assert not evidence.region[:, :500].any()
    with pytest.raises(ExplanationError, match="outside"):
        result.explain(768, 0)


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
    result = segmenter.segment(picture(60, 2 * segmenter.native_side), "cat; dog")
    assert result.paths["tiles"] > 1
    assert result.foreground is not None
    labels, scores = result.foreground.decide(-2.0, result.ignore_index)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_array_equal(scores, result.scores)
