"""What a segmentation method is, and what all methods share.

A method's author writes a `Method`: how class names and images are encoded, and how an image is scored.
`MethodSegmenter` makes a `Segmenter` of it, which is all that commands, evaluation and users know.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import numpy as np
import torch

from freeda.class_names import Classes, ClassName
from freeda.errors import ConfigError
from freeda.models.loading import choose_device, chosen_dtype
from freeda.presets import Preset, load_preset
from freeda.presets.settings import PRECISIONS, Precision, require
from freeda.segmentation import MAX_PIXELS
from freeda.segmentation.images import ImageLike, OnError
from freeda.segmentation.result import Segmentation
from freeda.segmentation.score_maps import ScoreMaps
from freeda.segmentation.segments import SegmentSource

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "SETTING_NAMES",
    "BackgroundSwitch",
    "Method",
    "Runtime",
    "Scores",
    "Segmenter",
    "as_preset",
    "require_batch",
    "require_switch",
]

SETTING_NAMES = {"threshold": "background"}
"""A method's `background` is on or off; the score that a class must then exceed is set as `threshold`."""


class HasBytes(Protocol):
    """Tensors, arrays, and whatever else tells its size in memory."""

    @property
    def nbytes(self) -> int: ...


Prepared = TypeVar("Prepared")
Features = TypeVar("Features", bound=HasBytes)
Encoded = TypeVar("Encoded")


class Segmenter(Protocol):
    """Segments images into any classes.

    identity: what a result depends on besides image and classes, as plain data, with the method's name.
    native_side: side in pixels of the largest square image that is not resized.
    classes: names of the classes set, the background first where there is one; raises `ClassNamesError` where
        none were.
    explains: whether results can explain their pixels.
    """

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def native_side(self) -> int: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def explains(self) -> bool: ...

    def with_background(self, background: bool) -> Segmenter:
        """The same method and models, with or without a background; raises `ConfigError`."""

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
    segments: of a method that finds segments by itself; None where they follow from the labels.
    """

    maps: torch.Tensor | ScoreMaps
    paths: Mapping[str, int] = field(default_factory=dict)
    segments: SegmentSource | None = None


class Method(Protocol[Prepared, Features, Encoded]):
    """What a method's author writes.

    batch: images, or parts of images, that pass the models at once.
    identity: what a result depends on, as plain data; "method" is the method's name.
    image_settings: what images' features depend on besides the pixels.
    native_side: side in pixels of the largest square image that is not resized.
    background: the score that a class must exceed; None where no background was asked for.
    """

    batch: int

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def image_settings(self) -> Hashable: ...
    @property
    def native_side(self) -> int: ...
    @property
    def background(self) -> float | None: ...

    def with_background(self, background: bool) -> Self:
        """A copy with the same models; raises `ConfigError` where the method has no background."""

    def encode_classes(self, classes: tuple[ClassName, ...]) -> Encoded:
        """Everything that is computed of the class names, once for all images."""

    def prepare(self, pixels: np.ndarray) -> Prepared:
        """What is done to an (H, W, 3) uint8 image before the models see it. Threads call it, ahead."""

    def encode_images(self, images: Sequence[Prepared]) -> Sequence[Features]:
        """Everything that is computed of prepared images whatever the classes. The latest are kept."""

    def score(self, images: Sequence[Features], classes: Encoded) -> Sequence[Scores]:
        """Scores of encoded images."""


class BackgroundSwitch:
    """A method's background: none, or where no class exceeds the score that its settings name."""

    settings: Any
    _with_background: bool

    @property
    def background(self) -> float | None:
        return self.settings.background if self._with_background else None

    def with_background(self, background: bool) -> Self:
        other = copy(self)
        other._with_background = background
        return other


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how a method runs, whatever it computes: options that methods share.

    device: "auto" is the first GPU, then the CPU.
    precision: of the models; "auto" is float16 on an NVIDIA GPU, float32 elsewhere.
    threads: that read and prepare images; 0 for one per core.
    native: whether images up to `native_side` are taken as they are, instead of resized.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int = 0
    native: bool = False

    def __post_init__(self) -> None:
        require(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        counted = isinstance(self.threads, int) and self.threads >= 0
        require(counted, "threads", self.threads, "a whole number, 0 or more")
        require(isinstance(self.native, bool), "native", self.native, "True or False")

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Runtime:
        """Takes what is set of it out of a method's options."""
        return cls(**{item.name: options.pop(item.name) for item in fields(cls) if item.name in options})

    @property
    def torch_device(self) -> torch.device:
        """Raises `ConfigError` for a device that is not there."""
        return choose_device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        return chosen_dtype(self.precision, self.torch_device)


def require_batch(batch: object) -> None:
    """Raises `ConfigError` unless a method's `batch` is a whole number above 0."""
    require(isinstance(batch, int) and batch > 0, "batch", batch, "a whole number above 0")


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
