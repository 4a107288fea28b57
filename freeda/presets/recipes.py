"""Recipes of FreeDA's online stage: this project's own, and the released code's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from freeda.errors import ConfigError
from freeda.presets.settings import TEMPLATES, FreedaSettings, Preset, Superpixels

__all__ = ["RECIPES", "check_recipe", "default_recipe", "load_recipe", "paper_recipe"]


def default_recipe(preset: Preset) -> FreedaSettings:
    """The online stage as this project runs it: the preset's own numbers."""
    return preset.segmentation


def paper_recipe(preset: Preset) -> FreedaSettings:
    """The online stage as FreeDA's released code runs it on Pascal VOC, step by step, for reproduction.

    The preset's image sizes stay, for they belong to its models. The released code also has superpixels of
    other sizes for other data sets, and an approximate index (HNSW) where this one's may be exact.
    """
    return replace(
        preset.segmentation,
        neighbors=350,
        neighbor_margin=2.0,
        local_weight=0.8,
        background=0.4,
        background_concepts=(),
        pooling="bilinear",
        merge_above=1.0,
        color_weight=0.0,
        pamr=0,
        metric="cosine",
        compactness_weight=0.0,
        retrieval="class",
        templates=TEMPLATES,
        synonyms=False,
        resizing="plain",
        regions="superpixels",
        superpixels=Superpixels(algorithm="felzenszwalb", scale=100.0, sigma=0.7, min_size=20),
    )


RECIPES: Mapping[str, Callable[[Preset], FreedaSettings]] = {
    "default": default_recipe,
    "paper": paper_recipe,
}


def load_recipe(name: str, preset: Preset) -> FreedaSettings:
    """A recipe's settings by its name; raises `ConfigError` for an unknown one."""
    check_recipe(name)
    return RECIPES[name](preset)


def check_recipe(name: str) -> None:
    """Raises `ConfigError` for an unknown recipe."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe '{name}'; expected one of {', '.join(RECIPES)}")
