"""Settings as plain data and as TOML text, both ways, and single settings changed by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from freeda.errors import ConfigError, reason
from freeda.presets.settings import FreedaSettings, Localization, Preset, Superpixels, Synthesis

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["changed", "parse_setting", "preset_from_dict", "read_toml", "record_from_table", "to_toml"]


Record = TypeVar("Record", bound="DataclassInstance")


def read_toml(path: Path) -> Preset:
    """The preset that a `.toml` file describes; raises `ConfigError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"no preset file '{path}' ({reason(error)}); expected a readable .toml file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset file '{path}' is not valid TOML: {error}") from error
    return preset_from_dict({"name": path.stem, "description": f"from {path.name}", **data}, str(path))


def preset_from_dict(data: Mapping[str, Any], where: str) -> Preset:
    """The inverse of `Preset.as_dict`; `where` names the source in errors. Raises `ConfigError`."""
    sections = dict(data)
    segmentation = dict(_table(sections, "segmentation", where))
    if "superpixels" in segmentation:
        segmentation["superpixels"] = record_from_table(Superpixels, segmentation["superpixels"], where)
    sections["models"] = _frozen(_table(sections, "models", where))
    sections["synthesis"] = record_from_table(Synthesis, _table(sections, "synthesis", where), where)
    sections["segmentation"] = record_from_table(FreedaSettings, segmentation, where)
    if "localization" in sections:
        sections["localization"] = record_from_table(Localization, sections["localization"], where)
    if "methods" in sections:
        methods = _table(sections, "methods", where)
        sections["methods"] = {name: _frozen(_table(methods, name, where)) for name in methods}
    return record_from_table(Preset, sections, where)


def record_from_table(cls: type[Record], data: object, where: str) -> Record:
    """A settings record from a table of its fields; raises `ConfigError` for unknown and missing ones."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {cls.__name__} is {data!r}; expected a table")
    known = {item.name for item in fields(cls)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(
            f"{where}: {cls.__name__} has no {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    try:
        return cls(**_frozen(data))
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def changed(
    record: Record, changes: Mapping[str, Any], owner: str, renamed: Mapping[str, str] | None = None
) -> Record:
    """A settings record with some fields changed, those of an inner record as `superpixels.scale`.

    owner: whose settings these are, for errors.
    renamed: field names by the names that users have for them.
    Raises `ConfigError`.
    """
    public = dict(renamed or {})
    settable = (set(_keys(record)) - set(public.values())) | set(public)
    if unknown := sorted(set(changes) - settable):
        raise ConfigError(
            f"{owner} has no option or setting '{unknown[0]}'; its settings are {', '.join(sorted(settable))}"
        )
    return _changed(record, {public.get(key, key): value for key, value in changes.items()}, owner)


def _changed(record: Record, changes: Mapping[str, Any], owner: str) -> Record:
    inner: dict[str, dict[str, Any]] = {}
    outer: dict[str, Any] = {}
    for key, value in changes.items():
        name, dot, rest = key.partition(".")
        if dot:
            inner.setdefault(name, {})[rest] = value
        else:
            outer[name] = value
    outer |= {name: _changed(getattr(record, name), some, owner) for name, some in inner.items()}
    try:
        return replace(record, **_frozen(outer))
    except TypeError as error:
        raise ConfigError(f"{owner}: {error}") from error


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` as key and value: the value as TOML has it, else as a text. Raises `ConfigError`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"setting '{text}' is not KEY=VALUE, such as pamr=0")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _keys(record: DataclassInstance) -> Iterator[str]:
    """Names of all fields, those of inner records with a dot."""
    for item in fields(record):
        value = getattr(record, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield from (f"{item.name}.{name}" for name in _keys(value))
        else:
            yield item.name


def _table(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = data.get(key)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} has no table [{key}]; see `freeda presets --show toy` for a complete one")
    return table


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, as settings hold them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def to_toml(preset: Preset) -> str:
    """A preset as the TOML text that `load_preset` reads."""
    return "\n".join(_toml_lines(preset.as_dict(), ()))


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [
        f"{key} = {_toml_value(value)}"
        for key, value in table.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
