"""Reading images of any kind as upright 8-bit RGB, a few of many ahead of their turn."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from freeda.errors import FreedaError, ImageError, reason
from freeda.segmentation import MAX_PIXELS

__all__ = [
    "IMAGE_ENDINGS",
    "IMAGE_FORMATS",
    "ImageLike",
    "OnError",
    "as_image_error",
    "map_ahead",
    "read_content",
    "read_image",
    "reading_pool",
    "require_aspect",
]

ImageLike = str | Path | Image.Image | np.ndarray
OnError = Callable[[ImageLike, FreedaError], None]
_T = TypeVar("_T")

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
"""Endings, in lower case, by which images are found in a folder."""
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is read, whatever a file is called; others start programs of their own (EPS) or are hardly
maintained.
"""
_MAX_ASPECT = 32
_CURE = "scale it down, or allow more (--max-pixels, max_pixels=)"
_OPENING = Lock()


def read_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W, 3) uint8 RGB from a path, a PIL image or an array.

    EXIF rotation is applied; grayscale, palette and 16-bit images are converted; transparency is shown on
    white. Arrays are (H, W) or (H, W, 3 or 4), uint8.
    max_pixels: the most that a file may have.
    Raises `ImageError`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    return _decoded(Path(source), str(source), max_pixels)


def read_content(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS, cure: str = _CURE) -> np.ndarray:
    """As `read_image`, from the content of a file. name: for errors. cure: for a file of too many pixels."""
    return _decoded(BytesIO(content), name, max_pixels, cure)


def require_aspect(pixels: np.ndarray) -> None:
    """Raises `ImageError` for an image too long and thin to be resized or cut into windows."""
    height, width = pixels.shape[:2]
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ImageError(
            f"image of {width} x {height} pixels; its sides may differ by {_MAX_ASPECT} times at most; "
            f"crop it"
        )


def _decoded(file: Path | BytesIO, name: str, max_pixels: int, cure: str = _CURE) -> np.ndarray:
    try:
        with _open(file) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(
                    f"'{name}' has {image.width} x {image.height} pixels, more than {max_pixels:,}; {cure}"
                )
            return _to_rgb(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"no image file '{name}'") from None
    except IsADirectoryError:
        raise ImageError(f"'{name}' is a folder; name image files") from None
    except UnidentifiedImageError as error:
        raise ImageError(f"'{name}' is no readable image: expected {', '.join(IMAGE_FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(f"'{name}' is no readable image: {error}") from error


def _open(file: Path | BytesIO) -> Image.Image:
    """Reads the header. Our own limit of pixels replaces Pillow's, which is global."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=IMAGE_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _from_deep(np.asarray(upright))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright.convert("RGB"))


def _from_deep(values: np.ndarray) -> np.ndarray:
    """More than 8 bits per channel: 0 .. 65535 for integers, 0 .. 1 for floats."""
    scale = 1.0 if values.dtype.kind == "f" else 65535.0
    gray = (np.clip(values / scale, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        raise ImageError(
            f"array of shape {array.shape} and type {array.dtype}; expected (H, W, 3) uint8, RGB"
        )
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        raise ImageError(f"array with {array.shape[-1]} channels; expected 3 (RGB) or 4 (RGBA)")
    return _to_rgb(Image.fromarray(array))


def as_image_error(image: ImageLike, error: Exception) -> FreedaError:
    """What is told of an image that fails with an error of any kind."""
    if isinstance(error, FreedaError):
        return error
    name = f"'{image}'" if isinstance(image, str | Path) else "an image"
    return ImageError(f"{name} failed with {type(error).__name__}: {reason(error)}")


@contextmanager
def reading_pool(threads: int) -> Iterator[Executor]:
    """Threads that drop what has not begun when the block ends early."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_ahead(
    pool: Executor,
    work: Callable[[ImageLike], _T],
    images: Iterable[ImageLike],
    on_error: OnError | None,
    ahead: int,
) -> Iterator[_T]:
    """`work` of every image, in order, begun for at most `ahead` images before they are asked for.

    An image whose work fails goes to `on_error` and is left out; without `on_error` the error is raised.
    """
    waiting: deque[tuple[ImageLike, Future[_T]]] = deque()
    source = iter(images)
    while True:
        waiting.extend((image, pool.submit(work, image)) for image in islice(source, ahead - len(waiting)))
        if not waiting:
            return
        image, future = waiting.popleft()
        try:
            done = future.result()
        except Exception as error:
            if on_error is None:
                raise
            on_error(image, as_image_error(image, error))
            continue
        yield done
