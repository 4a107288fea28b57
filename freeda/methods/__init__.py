"""Segmentation methods: a folder each, loaded by name. What two of them share lies below, as functions."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeda.errors import ConfigError

if TYPE_CHECKING:
    from freeda.methods.base import Segmenter

__all__ = ["METHODS", "TRAINED", "load", "takes"]

METHODS = {
    "freeda": "freeda.methods.freeda",
    "diffsegmenter": "freeda.methods.diffsegmenter",
    "odise": "freeda.methods.odise",
    "digseg": "freeda.methods.digseg",
    "flowseg": "freeda.methods.flowseg",
}
"""A method's name, and the package whose `load(**options)` gives its segmenter."""
TRAINED = {
    "odise": "freeda.methods.odise.training",
    "digseg": "freeda.methods.digseg.training",
    "flowseg": "freeda.methods.flowseg.training",
}
"""Of the methods that are trained, the module that says how."""


def takes(method: str, option: str) -> bool:
    """Whether a method has an option of its own: "index" for those that retrieve, "weights" for those that
    are trained, "stuff" for those that tell things apart.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
    return option in signature(import_module(METHODS[method]).load).parameters


def load(
    index: str | Path | None = None, *, method: str = "freeda", native: bool = False, **options: Any
) -> Segmenter:
    """Loads a method with its models.

    index: name, folder or address (`hf://USER/NAME`, `https://...`) of a prototype index, for methods that
        retrieve; None for the method's default.
    method: its name.
    native: whether images are segmented at their own resolution, tile by tile, instead of resized.
    options: of that method, such as `preset`, `device`, `background`, and any of its settings by name; those
        that are None are left out.
    Raises `ConfigError` for an unknown method, option or value, and the errors of opening index and models.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'; expected one of {', '.join(METHODS)}")
    named = {"index": index, "native": native or None, **options}
    given = {name: value for name, value in named.items() if value is not None}
    segmenter: Segmenter = import_module(METHODS[method]).load(**given)
    if not native:
        return segmenter
    from freeda.methods.tiling import TiledSegmenter

    return TiledSegmenter(segmenter)
