"""What a segmentation method is, and what all methods share.

A method's author writes a `Method`: how class names are encoded, and how an image is scored.
`MethodSegmenter` makes a `Segmenter` of it, which is all that commands, evaluation and users know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

import numpy as np
import torch

from freeda.class_names import Classes, ClassName, parse_classes, without_background
from freeda.errors import ClassNamesError, ConfigError
from freeda.presets import Preset, load_preset
from freeda.presets.settings import require
from freeda.segmentation import MAX_PIXELS
from freeda.segmentation.decision import decide
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.images import (
    ImageLike,
    OnError,
    as_image_error,
    map_ahead,
    read_image,
    reading_pool,
    require_aspect,
)
from freeda.segmentation.result import Segmentation
from freeda.segmentation.score_maps import DenseScores, ScoreMaps

__all__ = ["SETTING_NAMES", "Method", "MethodSegmenter", "Scores", "Segmenter", "as_preset", "require_switch"]

_MAX_AHEAD = 16
"""Most images that are read before their turn: a decoded photograph takes 100 MB."""
SETTING_NAMES = {"threshold": "background"}
"""A method's `background` is on or off; the score that a class must then exceed is set as `threshold`."""
Prepared = TypeVar("Prepared")
Encoded = TypeVar("Encoded")
Explain = Callable[[np.ndarray, Encoded, int, int], Evidence]


class Segmenter(Protocol):
    """Segments images into any classes.

    identity: what a result depends on besides image and classes, as plain data, with the method's name.
    explains: whether results can explain their pixels.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def explains(self) -> bool: ...

    def set_classes(self, classes: Classes) -> None:
        """Chooses the classes of the images to come: "cat,kitten; dog", or a list of such entries."""

    @overload
    def segment(self, image: ImageLike, classes: Classes | None = None) -> Segmentation: ...
    @overload
    def segment(self, image: list[ImageLike], classes: Classes | None = None) -> list[Segmentation]: ...
    def segment(
        self, image: ImageLike | list[ImageLike], classes: Classes | None = None
    ) -> Segmentation | list[Segmentation]:
        """Segments an image, or each of a list, into `classes` or those given to `set_classes`.

        image: a path, a PIL image, or an (H, W, 3) uint8 RGB array.
        Raises `ClassNamesError`, `ImageError`.
        """

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        on_error: OnError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        """Segments any number of images, in order, with a few of them in memory at a time.

        An image that fails, whatever the error, is given to `on_error` and has no result; without `on_error`
        its error is raised.
        max_pixels: the most that an image file may have.
        """


@dataclass(frozen=True)
class Scores:
    """One image's scores.

    maps: of classes first, then of what the background is made of: a (C + B, h, w) float32 tensor at any
        resolution, or another form of `ScoreMaps`.
    paths: how many regions, or classes, were handled in which way.
    """

    maps: torch.Tensor | ScoreMaps
    paths: Mapping[str, int] = field(default_factory=dict)


class Method(Protocol[Prepared, Encoded]):
    """What a method's author writes.

    batch: images, or parts of images, that pass the models at once.
    identity: what a result depends on, as plain data; "method" is the method's name.
    background: the score that a class must exceed; None where no background was asked for.
    """

    batch: int

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def background(self) -> float | None: ...

    def encode_classes(self, classes: tuple[ClassName, ...]) -> Encoded:
        """Everything that is computed of the class names, once for all images."""

    def prepare(self, pixels: np.ndarray) -> Prepared:
        """What is done to an (H, W, 3) uint8 image before it is scored. Threads call it, ahead of `score`."""

    def score(self, images: Sequence[Prepared], classes: Encoded) -> Sequence[Scores]:
        """Scores of prepared images."""


@dataclass(frozen=True)
class _Chosen(Generic[Encoded]):
    """Classes with what the method makes of them."""

    classes: tuple[ClassName, ...]
    encoded: Encoded


class MethodSegmenter(Generic[Prepared, Encoded]):
    """The `Segmenter` that a method makes: remembers classes, reads images ahead, groups them, decides.

    method: its settings may be changed between calls.
    explain: answers for pixel (x, y) of (H, W, 3) pixels; None where the method cannot.
    size_of: how many parts of a `batch` a prepared image is.
    threads: that read and prepare images; 0 for one per core.
    """

    def __init__(
        self,
        method: Method[Prepared, Encoded],
        *,
        explain: Explain[Encoded] | None = None,
        size_of: Callable[[Prepared], int] = lambda image: 1,
        threads: int = 0,
    ) -> None:
        self.method = method
        self.threads = threads or os.cpu_count() or 1
        self._explain = explain
        self._size_of = size_of
        self._chosen: _Chosen[Encoded] | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a segmenter cannot be pickled, for it holds models; call freeda.load(...) where it is used"
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.method.identity

    @property
    def explains(self) -> bool:
        return self._explain is not None

    def set_classes(self, classes: Classes) -> None:
        self._chosen = self._choose(classes)

    def encode_classes(self, classes: Classes) -> Encoded:
        """What the method makes of class names."""
        return self._choose(classes).encoded

    def _choose(self, classes: Classes) -> _Chosen[Encoded]:
        parsed = parse_classes(classes)
        if self.method.background is not None:
            parsed = without_background(parsed)
        return _Chosen(parsed, self.method.encode_classes(parsed))

    @overload
    def segment(self, image: ImageLike, classes: Classes | None = None) -> Segmentation: ...
    @overload
    def segment(self, image: list[ImageLike], classes: Classes | None = None) -> list[Segmentation]: ...
    def segment(
        self, image: ImageLike | list[ImageLike], classes: Classes | None = None
    ) -> Segmentation | list[Segmentation]:
        chosen = self._require_classes() if classes is None else self._choose(classes)
        if isinstance(image, list):
            return list(self._stream(image, chosen))
        return next(self._stream([image], chosen))

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        on_error: OnError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        return self._stream(images, self._require_classes(), on_error, max_pixels)

    def _require_classes(self) -> _Chosen[Encoded]:
        if self._chosen is None:
            raise ClassNamesError('no classes chosen; call set_classes(["cat", "dog"]) first')
        return self._chosen

    def _stream(
        self,
        images: Iterable[ImageLike],
        chosen: _Chosen[Encoded],
        on_error: OnError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Segmentation]:
        ahead = min(2 * self.threads, _MAX_AHEAD)
        with reading_pool(self.threads) as pool:
            read = map_ahead(pool, partial(self._read, max_pixels), images, on_error, ahead)
            for group in self._grouped(read):
                yield from self._results(group, chosen, on_error)

    def _results(
        self, group: list[_Item[Prepared]], chosen: _Chosen[Encoded], on_error: OnError | None
    ) -> Iterator[Segmentation]:
        """The group's results; where it fails, each image is tried by itself, so that one costs no other."""
        try:
            scores = self.method.score([item.prepared for item in group], chosen.encoded)
            results = [
                self._decide(item.pixels, found, chosen) for item, found in zip(group, scores, strict=True)
            ]
        except Exception as error:
            if on_error is None:
                raise
            if len(group) == 1:
                on_error(group[0].source, as_image_error(group[0].source, error))
                return
            for item in group:
                yield from self._results([item], chosen, on_error)
            return
        yield from results

    def _read(self, max_pixels: int, image: ImageLike) -> _Item[Prepared]:
        pixels = read_image(image, max_pixels=max_pixels)
        require_aspect(pixels)
        return _Item(image, pixels, self.method.prepare(pixels))

    def _grouped(self, items: Iterable[_Item[Prepared]]) -> Iterator[list[_Item[Prepared]]]:
        """Images until they have as many parts as pass the models at once."""
        group: list[_Item[Prepared]] = []
        for item in items:
            group.append(item)
            if sum(self._size_of(member.prepared) for member in group) >= self.method.batch:
                yield group
                group = []
        if group:
            yield group

    def _decide(self, pixels: np.ndarray, scores: Scores, chosen: _Chosen[Encoded]) -> Segmentation:
        names = [item.name for item in chosen.classes]
        size = (pixels.shape[0], pixels.shape[1])
        maps = DenseScores.of(scores.maps) if isinstance(scores.maps, torch.Tensor) else scores.maps
        decision = decide(maps, size, names, background=self.method.background)
        explainer = None if self._explain is None else partial(self._explain, pixels, chosen.encoded)
        return Segmentation(
            image=pixels,
            labels=decision.labels,
            scores=decision.scores,
            classes=decision.classes,
            ignore_index=decision.ignore_index,
            paths=scores.paths,
            explainer=explainer,
            foreground=decision.foreground,
        )


@dataclass(frozen=True)
class _Item(Generic[Prepared]):
    """An image that was read. source: what was given. pixels: (H, W, 3) uint8."""

    source: ImageLike
    pixels: np.ndarray
    prepared: Prepared


def require_switch(background: object) -> None:
    """Raises `ConfigError` unless a method's `background` is True or False."""
    if not isinstance(background, bool):
        raise ConfigError(f"background is {background!r}; expected True or False; its score is `threshold`")


def as_preset(preset: str | Preset) -> Preset:
    """A preset given by name, by file, or as it is; raises `ConfigError` for settings of unknown methods."""
    from freeda.methods import METHODS  # which imports this module's methods

    chosen = load_preset(preset) if isinstance(preset, str) else preset
    for name in chosen.methods:
        if name == "freeda":
            raise ConfigError(f"preset '{chosen.name}' has [methods.freeda]; its table is [segmentation]")
        require(name in METHODS, f"preset '{chosen.name}': table [methods.{name}]", name, ", ".join(METHODS))
    return chosen
