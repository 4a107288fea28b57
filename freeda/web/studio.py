"""What the page works on: images, segmenters and results, each kept by id within bounds. Knows no HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, cast

import numpy as np

from freeda.caching import BoundedCache
from freeda.class_names import parse_classes, shortened
from freeda.errors import ClassNamesError, ConfigError, FreedaError
from freeda.index.reader import PrototypeIndex
from freeda.methods import METHODS, load, takes
from freeda.methods.base import Segmenter
from freeda.methods.freeda import FreedaSegmenter, with_images
from freeda.segmentation.images import read_content, require_aspect
from freeda.segmentation.marked_images import Mark, MarkedImage
from freeda.segmentation.result import Segmentation
from freeda.web.limits import Limits
from freeda.web.marks import DrawnMark

__all__ = ["ForgottenError", "Picture", "Studio"]

_Key = tuple[str, str | None]
"""A method, and the index of one that retrieves."""
_VARIANTS = 256
"""Of a segmenter, that are kept: each is as large as what its last mark gave."""


class ForgottenError(FreedaError):
    """An image or a result that is not kept any more, or never was."""


@dataclass(frozen=True)
class Picture:
    """An image that was handed in. pixels: (H, W, 3) uint8 RGB, upright. name: of its file."""

    id: str
    name: str
    pixels: np.ndarray


class _Loaded:
    """A segmenter with its models, and others that share them: with a background or not, and with marks."""

    def __init__(self, plain: Segmenter) -> None:
        self.plain = plain
        self.variants = BoundedCache[str, Segmenter](_VARIANTS)


class Studio:
    """Images, loaded segmenters and results.

    One thread at a time may call `segment` and `segmenter`, which load and run models.
    """

    def __init__(
        self,
        indexes: Mapping[str, str],
        limits: Limits,
        *,
        preset: str | None = None,
        device: str = "auto",
        trust_models: bool = False,
    ) -> None:
        """indexes: where each index lies, by the name that the page shows. Others: as `freeda.load` takes
        them.
        """
        self.indexes = dict(indexes)
        self.limits = limits
        self._options = {"preset": preset, "device": device}
        self._trust_models = trust_models
        self._pictures = BoundedCache[str, Picture](limits.images_bytes, lambda item: item.pixels.nbytes)
        self._results = BoundedCache[str, Segmentation](limits.results_bytes, _result_bytes)
        self._segmenters = BoundedCache[_Key, _Loaded](limits.segmenters)
        self._opened = BoundedCache[str, PrototypeIndex](len(self.indexes) + 16)
        self._opening = Lock()

    def add_picture(self, content: bytes, name: str) -> Picture:
        """Reads an image file. The same content has the same id. Raises `ImageError`."""
        pixels = read_content(content, name, max_pixels=self.limits.upload_pixels, cure="scale it down")
        require_aspect(pixels)
        picture = Picture(_short_digest(content), name, pixels)
        self._pictures.keep({picture.id: picture})
        return picture

    def picture(self, picture_id: str) -> Picture:
        """Raises `ForgottenError`."""
        found = self._pictures.find([picture_id])
        if not found:
            raise ForgottenError("this image is not kept any more; choose it again")
        return found[picture_id]

    def result(self, result_id: str) -> Segmentation:
        """Raises `ForgottenError`."""
        found = self._results.find([result_id])
        if not found:
            raise ForgottenError("this result is not kept any more; segment the image again")
        return found[result_id]

    def segment(
        self,
        picture_id: str,
        classes: Sequence[str],
        *,
        method: str,
        index: str | None,
        background: bool,
        marks: tuple[DrawnMark, ...] = (),
    ) -> tuple[str, Segmentation]:
        """The id of a result, and the result.

        classes: an entry per class, "cat,kitten"; never a file's name.
        index: for methods that retrieve.
        marks: on images that are kept; they serve as photographs that the index does not hold.
        """
        picture = self.picture(picture_id)
        parsed = parse_classes([entry for entry in classes if entry.strip(" ;,")])
        if len(parsed) > self.limits.classes:
            raise ClassNamesError(f"{len(parsed):,} classes; the page takes {self.limits.classes:,} at most")
        what = repr((picture.id, picture.name, parsed, method, index, background, marks))
        result_id = _short_digest(what.encode())
        if found := self._results.find([result_id]):
            return result_id, found[result_id]
        segmenter = self.segmenter(method, index, background=background, marks=marks)
        result = replace(segmenter.segment(picture.pixels, parsed), file_name=picture.name)
        self._results.keep({result_id: result})
        return result_id, result

    def segmenter(
        self,
        method: str,
        index: str | None,
        *,
        background: bool = False,
        marks: tuple[DrawnMark, ...] = (),
    ) -> Segmenter:
        """Loaded when it is first asked for; with and without background or marks, the models are the same.

        Raises `ConfigError`, `DatasetError` for a mark of no use, and what `freeda.load` does.
        """
        if method not in METHODS:
            raise ConfigError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
        key = (method, index if takes(method, "index") else None)
        held = self._segmenters.find([key]).get(key)
        if held is None:
            held = _Loaded(load(method=method, **self._load_options(method, index)))
            self._segmenters.keep({key: held})
        return self._variant(held, background, marks)

    def _variant(self, loaded: _Loaded, background: bool, marks: tuple[DrawnMark, ...]) -> Segmenter:
        """One mark after the other, so that a further one costs no more than itself."""
        key = _short_digest(repr((background, marks)).encode())
        if found := loaded.variants.find([key]):
            return found[key]
        if marks:
            made = self._with_mark(self._variant(loaded, background, marks[:-1]), marks[-1])
        else:
            made = loaded.plain.with_background(background)
        loaded.variants.keep({key: made})
        return made

    def _with_mark(self, segmenter: Segmenter, mark: DrawnMark) -> Segmenter:
        return with_images(cast(FreedaSegmenter, segmenter), [self._marked(mark)])

    def _marked(self, mark: DrawnMark) -> MarkedImage:
        found = self._pictures.find([mark.image])
        if not found:
            raise ForgottenError(
                f"the image on which '{shortened(mark.name)}' is marked is not kept any more; choose it "
                f"again, or remove the mark"
            )
        picture = found[mark.image]
        drawn = Mark(mark.name, mark.mask((picture.pixels.shape[0], picture.pixels.shape[1])))
        return MarkedImage(picture.name, picture.pixels, (drawn,))

    def _load_options(self, method: str, index: str | None) -> dict[str, Any]:
        if not takes(method, "index"):
            return self._options
        return {**self._options, "index": self._place(index), "trust_models": self._trust_models}

    def index(self, name: str) -> PrototypeIndex:
        """Raises `ConfigError` for a name that is not listed, and the errors of opening it."""
        if found := self._opened.find([name]):
            return found[name]
        with self._opening:  # one thread opens it, the others take what that one opened
            if found := self._opened.find([name]):
                return found[name]
            opened = PrototypeIndex.open(self._place(name))
            self._opened.keep({name: opened})
            return opened

    def _place(self, name: str | None) -> str:
        if name is None or name not in self.indexes:
            raise ConfigError(f"unknown index '{name}'; expected one of {', '.join(self.indexes)}")
        return self.indexes[name]


def _result_bytes(result: Segmentation) -> int:
    return int(result.image.nbytes + result.labels.nbytes + result.scores.nbytes)


def _short_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
