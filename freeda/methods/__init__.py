"""Segmentation methods, loaded by name on demand. They share functions, never a parent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from freeda.errors import ConfigError
from freeda.segmentation.images import ImageLike
from freeda.class_names import ClassName
from freeda.segmentation.result import Segmentation

__all__ = ["METHODS", "Segmenter", "load_method"]

METHODS = {"freeda": "freeda.methods.freeda.method", "diffsegmenter": "freeda.methods.diffsegmenter.method"}
"""Method name to the module that has `load(index, *, preset, device)`."""


class Segmenter(Protocol):
    """What every method is. explains: whether its results know which prototypes voted."""

    explains: bool

    def segment(
        self, image: ImageLike, classes: str | Sequence[str] | Sequence[ClassName] | None = None
    ) -> Segmentation: ...

    def stream(self, images: Iterable[ImageLike]) -> Iterator[Segmentation]: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...


def load_method(name: str, **options: Any) -> Any:
    """Imports a method's module and calls its `load`; raises `ConfigError` for an unknown name."""
    if name not in METHODS:
        raise ConfigError(f"unknown method '{name}'; expected one of {', '.join(METHODS)}")
    return import_module(METHODS[name]).load(**options)
