"""Videos: read and written frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from freeda.errors import ConfigError, ImageError, reason
from freeda.files import replacing
from freeda.methods.base import Segmenter
from freeda.segmentation.colors import class_colors
from freeda.segmentation.drawing import draw_overlay
from freeda.segmentation.result import Segmentation

__all__ = ["Frame", "OverlayVideo", "read_frames", "segment_frames"]

_TICKS = Fraction(1, 90_000)
"""The clock of written videos, fine enough for any rate of frames."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    number: counted from 0.
    seconds: since the video's start.
    pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    pixels: np.ndarray


def read_frames(path: str | Path, *, every: int = 1) -> Iterator[Frame]:
    """The first frame of a video and each `every`-th after it.

    Raises `ConfigError` where PyAV is not installed, `ImageError` for a file that is no video, or one without
    frames.
    """
    if every < 1:
        raise ConfigError(f"every {every} frames; expected a whole number above 0")
    av = _pyav()
    if not Path(path).is_file():
        raise ImageError(f"no video file '{path}'")
    number = -1
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"'{path}' holds no video")
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % every == 0:
                    upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    yield Frame(number, float(frame.time or 0.0), np.ascontiguousarray(upright))
    except av.FFmpegError as error:
        raise ImageError(f"'{path}' is no readable video: {reason(error)}") from error
    if number < 0:
        raise ImageError(f"'{path}' holds no frames")


def segment_frames(
    segmenter: Segmenter, path: str | Path, *, every: int = 1
) -> Iterator[tuple[Frame, Segmentation]]:
    """Frames of a video, each segmented by itself into the classes set; a few are in memory at a time.

    Raises as `read_frames` does.
    """
    asked: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in read_frames(path, every=every):
            asked.append(frame)
            yield frame.pixels

    for result in segmenter.stream(pixels()):
        yield asked.popleft(), result


class OverlayVideo:
    """An MP4 (H.264) of overlays, without sound. A class has one colour throughout."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._stream: Any = None

    @classmethod
    @contextmanager
    def create(cls, path: str | Path) -> Iterator[OverlayVideo]:
        """A video that appears at `path` when the block ends without an error."""
        av = _pyav()
        with replacing(Path(path)) as partial, av.open(str(partial), "w", format="mp4") as container:
            video = cls(container)
            yield video
            video._finish()

    def add(self, frame: Frame, result: Segmentation) -> None:
        """Writes the next frame, at its time."""
        import av

        colors = class_colors(result.classes)
        picture = _even(np.asarray(draw_overlay(result, colors=colors, legend=False)))
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=30)
            self._stream.width, self._stream.height = picture.shape[1], picture.shape[0]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = _TICKS
        drawn = av.VideoFrame.from_ndarray(picture, format="rgb24")
        drawn.pts, drawn.time_base = round(frame.seconds / _TICKS), _TICKS
        self._container.mux(self._stream.encode(drawn))

    def _finish(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())


def _even(picture: np.ndarray) -> np.ndarray:
    """A picture with even sides, as H.264 wants them: the last row or column may be there twice."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos need the package PyAV: pip install 'freeda[video]'") from error
    return av
