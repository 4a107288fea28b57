"""Videos: read and written frame by frame."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from freeda.errors import ConfigError, ImageError, OutputError, reason
from freeda.files import replacing
from freeda.methods.base import Segmenter
from freeda.segmentation.colors import class_colors
from freeda.segmentation.drawing import draw_overlay
from freeda.segmentation.result import Segmentation

__all__ = ["Frame", "OverlayVideo", "read_frames", "segment_frames"]

_TICKS = Fraction(1, 90_000)
"""The clock of written videos, fine enough for any rate of frames."""
_USUAL_RATE = 25
_CUT_SECONDS = 1.0
"""A video that ends so much earlier than it tells was cut short."""


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    number: counted from 0.
    seconds: since the first frame. Where a video's own times are missing or do not increase, frames follow
        one another at its mean rate.
    pixels: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    pixels: np.ndarray


def read_frames(path: str | Path, *, every: int = 1) -> Iterator[Frame]:
    """The first frame of a video and each `every`-th after it.

    Warns where a video's own times cannot be used, or where it ends before the end that it tells of.
    Raises `ConfigError` where PyAV is not installed, `ImageError` for a file that is no video, or one without
    frames.
    """
    if every < 1:
        raise ConfigError(f"every {every} frames; expected a whole number above 0")
    av = _pyav()
    if not Path(path).is_file():
        raise ImageError(f"no video file '{path}'")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"'{path}' holds no video")
            yield from _frames(container, str(path), every)
    except av.FFmpegError as error:
        raise ImageError(f"'{path}' is no readable video: {reason(error)}") from error


def _frames(container: Any, name: str, every: int) -> Iterator[Frame]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    clock = _Clock(float(1 / (stream.average_rate or _USUAL_RATE)))
    count = 0
    for number, frame in enumerate(container.decode(video=0)):
        count, seconds = number + 1, clock.at(frame.time)
        if number % every == 0:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            yield Frame(number, seconds, np.ascontiguousarray(upright))
    if not count:
        raise ImageError(f"'{name}' holds no frames")
    if clock.invented:
        warnings.warn(f"'{name}' has no usable times for {clock.invented} of {count} frames", stacklevel=2)
    told = float(container.duration or 0) / 1e6
    if (stream.frames and count < stream.frames) or clock.end < told - _CUT_SECONDS:
        warnings.warn(f"'{name}' seems cut short: it ends after {count} frames", stacklevel=2)


class _Clock:
    """Times of frames, which always increase.

    step: seconds between two frames where nothing better is known.
    last: the time of the frame before. invented: of how many frames no usable time was told.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self.last: float | None = None
        self.invented = 0
        self._start: float | None = None

    @property
    def end(self) -> float:
        """Where the last frame ends, by the video's own clock, which need not begin with 0."""
        return (self._start or 0.0) + (self.last or 0.0) + self.step

    def at(self, told: float | None) -> float:
        """Seconds since the first frame."""
        following = 0.0 if self.last is None else self.last + self.step
        if told is not None and self._start is None:
            self._start = told - following
        found = None if told is None or self._start is None else told - self._start
        if found is None or (self.last is not None and found <= self.last):
            self.invented += 1
            found = following
        self.last = found
        return found


def segment_frames(
    segmenter: Segmenter, path: str | Path, *, every: int = 1
) -> Iterator[tuple[Frame, Segmentation]]:
    """Frames of a video, each segmented by itself into the classes set; a few are in memory at a time.

    A class has one colour in all of them. Raises as `read_frames` does.
    """
    palette = class_colors(segmenter.classes)
    asked: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in read_frames(path, every=every):
            asked.append(frame)
            yield frame.pixels

    for result in segmenter.stream(pixels()):
        yield asked.popleft(), replace(result, palette=palette)


class OverlayVideo:
    """An MP4 (H.264) of overlays, without sound."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._stream: Any = None

    @classmethod
    @contextmanager
    def create(cls, path: str | Path) -> Iterator[OverlayVideo]:
        """A video that appears at `path` when the block ends without an error.

        Raises `OutputError` where it cannot be written, or no frame was added.
        """
        av = _pyav()
        try:
            with replacing(Path(path)) as partial, av.open(str(partial), "w", format="mp4") as container:
                video = cls(container)
                yield video
                video._finish(path)
        except av.FFmpegError as error:
            raise OutputError(f"cannot write '{path}': {reason(error)}; choose another --out") from error

    def add(self, frame: Frame, result: Segmentation) -> None:
        """Writes the next frame, at its time."""
        import av

        picture = _even(np.asarray(draw_overlay(result, legend=False)))
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=30)
            self._stream.width, self._stream.height = picture.shape[1], picture.shape[0]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = _TICKS
        drawn = av.VideoFrame.from_ndarray(picture, format="rgb24")
        drawn.pts, drawn.time_base = round(frame.seconds / _TICKS), _TICKS
        self._container.mux(self._stream.encode(drawn))

    def _finish(self, path: str | Path) -> None:
        if self._stream is None:
            raise OutputError(f"no frame was added to '{path}'")
        self._container.mux(self._stream.encode())


def _even(picture: np.ndarray) -> np.ndarray:
    """A picture with even sides, as H.264 wants them: the last row or column may be there twice."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos need the package PyAV: pip install av") from error
    return av
