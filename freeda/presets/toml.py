"""Presets as plain data and as TOML text, both ways."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from freeda.presets.settings import Localization, Models, Preset, Segmentation, Superpixels, Synthesis
from freeda.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["preset_from_dict", "read_toml", "to_toml"]


def read_toml(path: Path) -> Preset:
    """The preset that a `.toml` file describes; raises `ConfigError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"no preset file '{path}' ({error.strerror}); expected a readable .toml file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset file '{path}' is not valid TOML: {error}") from error
    return preset_from_dict({"name": path.stem, "description": f"from {path.name}", **data}, str(path))


def preset_from_dict(data: Mapping[str, Any], where: str) -> Preset:
    """The inverse of `Preset.as_dict`; `where` names the source in errors."""
    sections = dict(data)
    segmentation = dict(_table(sections, "segmentation", where))
    if "superpixels" in segmentation:
        segmentation["superpixels"] = _build(Superpixels, segmentation["superpixels"], where)
    sections["models"] = _build(Models, _table(sections, "models", where), where)
    sections["synthesis"] = _build(Synthesis, _table(sections, "synthesis", where), where)
    sections["segmentation"] = _build(Segmentation, segmentation, where)
    if "localization" in sections:
        sections["localization"] = _build(Localization, sections["localization"], where)
    return _build(Preset, sections, where)


def _table(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = data.get(key)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} has no table [{key}]; see `freeda presets --show toy` for a complete one")
    return table


def _build(cls: type[Any], data: Mapping[str, Any], where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {cls.__name__} is {data!r}; expected a table")
    known = {item.name for item in fields(cls)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(
            f"{where}: {cls.__name__} has no {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_toml(preset: Preset) -> str:
    """A preset as the TOML text that `load_preset` reads."""
    return "\n".join(_toml_lines(preset.as_dict(), ()))


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [
        f"{key} = {_toml_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)
