from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freeda.errors import ImageError
from freeda.segmentation.images import read_image

COLOR = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def test_paths_pictures_and_arrays_agree(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(COLOR).save(path)
    for source in (path, str(path), Image.fromarray(COLOR), COLOR):
        np.testing.assert_array_equal(read_image(source), COLOR)


def test_grayscale_palette_and_alpha(tmp_path: Path) -> None:
    gray = read_image(Image.fromarray(COLOR[..., 0]))
    np.testing.assert_array_equal(gray, np.repeat(COLOR[..., :1], 3, axis=2))
    clear = np.dstack([COLOR, np.zeros(COLOR.shape[:2], np.uint8)])
    assert (read_image(clear) == 255).all()
    opaque = np.dstack([COLOR, np.full(COLOR.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(read_image(opaque), COLOR)
    path = tmp_path / "palette.png"
    Image.fromarray(COLOR).quantize(8).save(path)
    assert read_image(path).shape == COLOR.shape


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    np.testing.assert_allclose(read_image(path)[..., 1], deep / 257, atol=0.51)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOR).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(COLOR, -1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 6, 3), np.float32), "float32"),
        (np.zeros((4, 6, 2), np.uint8), "2 channels"),
        (np.zeros((4,), np.uint8), r"\(4,\)"),
        (np.zeros((0, 6, 3), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    text, cut = tmp_path / "note.png", tmp_path / "cut.png"
    text.write_text("no image")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    for path in (text, cut):
        with pytest.raises(ImageError, match="no readable image"):
            read_image(path)
    with pytest.raises(ImageError, match="no image file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)


def test_formats_that_are_not_listed_are_refused_whatever_the_file_is_called(tmp_path: Path) -> None:
    """Pillow starts Ghostscript for PostScript."""
    Image.new("RGB", (20, 20)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is no readable image"):
        read_image(tmp_path / "a.png")
