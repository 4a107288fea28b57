"""The segmenter that a method makes, with what all methods share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast, overload

import numpy as np
import torch
from numpy.typing import DTypeLike

from freeda.caching import BoundedCache
from freeda.class_names import BACKGROUND, Classes, ClassName, parse_classes, without_background
from freeda.errors import ClassNamesError
from freeda.methods.base import Encoded, Features, Method, Prepared, Scores, require_switch
from freeda.segmentation import MAX_PIXELS
from freeda.segmentation.decision import class_scores, decide
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

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MethodSegmenter"]

_MAX_AHEAD = 16
"""Most images that are read before their turn: a decoded photograph takes 100 MB."""
_KEPT_BYTES = 128 * 2**20
"""Of the latest images' features: about 12 photographs at the full-size models' shapes."""
Explain = Callable[[Any, Features, Encoded, int, int], Evidence]


@dataclass(frozen=True)
class _Chosen(Generic[Encoded]):
    """Classes with what the method makes of them."""

    classes: tuple[ClassName, ...]
    encoded: Encoded


class MethodSegmenter(Generic[Prepared, Features, Encoded]):
    """The `Segmenter` that a method makes: remembers classes, reads images ahead, groups them, decides.

    The features of the latest images are kept, so that other classes, or an explanation, do not encode an
    image again.
    method: its settings may be changed between calls.
    explain: answers, given the method, for pixel (x, y) of an encoded image; None where the method cannot.
    size_of: how many parts of a `batch` a prepared image is.
    threads: that read and prepare images; 0 for one per core.
    kept_bytes: of features that are kept.
    """

    def __init__(
        self,
        method: Method[Prepared, Features, Encoded],
        *,
        explain: Explain[Features, Encoded] | None = None,
        size_of: Callable[[Prepared], int] = lambda image: 1,
        threads: int = 0,
        kept_bytes: int = _KEPT_BYTES,
    ) -> None:
        self.method = method
        self.threads = threads or os.cpu_count() or 1
        self._explain = explain
        self._size_of = size_of
        self._chosen: _Chosen[Encoded] | None = None
        self._known = BoundedCache[Hashable, Features](kept_bytes, lambda features: features.nbytes)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a segmenter cannot be pickled, for it holds models; call freeda.load(...) where it is used"
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.method.identity

    @property
    def native_side(self) -> int:
        return self.method.native_side

    @property
    def classes(self) -> tuple[str, ...]:
        names = tuple(item.name for item in self._require_classes().classes)
        return names if self.method.background is None else (BACKGROUND, *names)

    def with_background(self, background: bool) -> Self:
        require_switch(background)
        return self.with_method(self.method.with_background(background))

    def with_method(self, method: Method[Prepared, Features, Encoded]) -> Self:
        """The same with another method, to which the features of images mean the same; without classes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.method, other._chosen = method, None
        return other

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
        self, group: list[_Item[Prepared, Features]], chosen: _Chosen[Encoded], on_error: OnError | None
    ) -> Iterator[Segmentation]:
        """The group's results; where it fails, each image is tried by itself, so that one costs no other."""
        try:
            scores = self.method.score(self._encoded(group), chosen.encoded)
            results = [self._decide(item, found, chosen) for item, found in zip(group, scores, strict=True)]
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

    def _read(self, max_pixels: int, image: ImageLike) -> _Item[Prepared, Features]:
        pixels = read_image(image, max_pixels=max_pixels)
        require_aspect(pixels)
        return self._item(image, pixels)

    def _item(self, source: ImageLike, pixels: np.ndarray) -> _Item[Prepared, Features]:
        digest = hashlib.blake2b(np.ascontiguousarray(pixels).data).digest()
        key = (digest, pixels.shape, self.method.image_settings)
        known = self._known.find([key])
        if known:
            return _Item(source, pixels, key, features=known[key])
        return _Item(source, pixels, key, prepared=self.method.prepare(pixels))

    def _encoded(self, group: Sequence[_Item[Prepared, Features]]) -> list[Features]:
        new = [item for item in group if item.features is None]
        prepared = [cast(Prepared, item.prepared) for item in new]
        encoded = self.method.encode_images(prepared) if new else ()
        made = {item.key: features for item, features in zip(new, encoded, strict=True)}
        self._known.keep(made)
        return [made[item.key] if item.features is None else item.features for item in group]

    def _grouped(
        self, items: Iterable[_Item[Prepared, Features]]
    ) -> Iterator[list[_Item[Prepared, Features]]]:
        """Images until they have as many parts as pass the models at once."""
        group: list[_Item[Prepared, Features]] = []
        parts = 0
        for item in items:
            group.append(item)
            parts += 1 if item.prepared is None else self._size_of(item.prepared)
            if parts >= self.method.batch:
                yield group
                group, parts = [], 0
        if group:
            yield group

    def _decide(
        self, item: _Item[Prepared, Features], scores: Scores, chosen: _Chosen[Encoded]
    ) -> Segmentation:
        pixels = item.pixels
        names = [one.name for one in chosen.classes]
        size = (pixels.shape[0], pixels.shape[1])
        maps = _as_score_maps(scores)
        decision = decide(maps, size, names, background=self.method.background)
        explainer = partial(self._explain_pixel, pixels, chosen.encoded) if self.explains else None
        return Segmentation(
            image=pixels,
            labels=decision.labels,
            scores=decision.scores,
            classes=decision.classes,
            ignore_index=decision.ignore_index,
            paths=scores.paths,
            explainer=explainer,
            scorer=partial(self._class_scores, pixels, chosen),
            foreground=decision.foreground,
            segment_source=scores.segments,
            file_name=Path(item.source).name if isinstance(item.source, str | Path) else "",
        )

    def _class_scores(
        self,
        pixels: np.ndarray,
        chosen: _Chosen[Encoded],
        numbers: Sequence[int],
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """(K, H, W): the scores of some of a result's classes.

        They are made anew: a result that kept all maps would take hundreds of megabytes.
        """
        (scores,) = self.method.score(self._encoded([self._item(pixels, pixels)]), chosen.encoded)
        return class_scores(
            _as_score_maps(scores),
            (pixels.shape[0], pixels.shape[1]),
            numbers,
            classes=len(chosen.classes),
            background=self.method.background,
            dtype=dtype,
        )

    def _explain_pixel(self, pixels: np.ndarray, encoded: Encoded, x: int, y: int) -> Evidence:
        assert self._explain is not None
        (features,) = self._encoded([self._item(pixels, pixels)])
        return self._explain(self.method, features, encoded, x, y)


def _as_score_maps(scores: Scores) -> ScoreMaps:
    return DenseScores.of(scores.maps) if isinstance(scores.maps, torch.Tensor) else scores.maps


@dataclass(frozen=True)
class _Item(Generic[Prepared, Features]):
    """An image that was read.

    source: what was given.
    pixels: (H, W, 3) uint8.
    key: of its features among those that are kept.
    prepared: of a new image. features: of one that is kept.
    """

    source: ImageLike
    pixels: np.ndarray
    key: Hashable
    prepared: Prepared | None = None
    features: Features | None = None
