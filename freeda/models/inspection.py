"""What a model may ask for: weights as safetensors and classes of the model libraries, never code.

A folder, or the configurations of a hub's repository, are looked at before any library sees them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["UntrustedModelError", "inspect_configs", "inspect_folder", "require_safetensors"]

_FORBIDDEN = ("trust_remote_code", "auto_map", "custom_pipeline", "custom_load", "timm_model_pretrained")
_REDIRECTIONS = ("url", "file", "hf_hub_id", "hf_hub_filename", "state_dict")
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
"""Where a pipeline's parts may come from; the last one is a module of diffusers."""
_MAX_CONFIG_BYTES = 16 * 2**20
_TOKENIZERS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
"""Files of words, which may hold any."""


class UntrustedModelError(ValueError):
    """A model's folder that asks for code, or for weights that are not safetensors."""


def inspect_folder(folder: Path) -> None:
    """Raises `UntrustedModelError` for a folder whose model would run code of its own or unpickle weights."""
    scripts = sorted(path.name for path in folder.rglob("*.py"))
    if scripts:
        raise UntrustedModelError(
            f"holds code, {scripts[0]}; a model of the libraries' own classes needs none"
        )
    inspect_configs(folder)
    for path in sorted(folder.rglob("*pytorch_model.bin")):
        if path.parent != folder and not list(path.parent.glob("*.safetensors")):
            raise UntrustedModelError(
                f"has pickled weights, {path.relative_to(folder)}; convert them to safetensors"
            )
    weights = {
        path.suffix for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    }
    if weights and not list(folder.rglob("*.safetensors")):
        raise UntrustedModelError(
            f"has weights as {', '.join(sorted(weights))} only; convert them to safetensors"
        )


def inspect_configs(folder: Path) -> None:
    """Raises `UntrustedModelError` for a configuration that asks for code or for other weights."""
    for path in sorted(folder.rglob("*.json")):
        if path.name not in _TOKENIZERS and not path.name.endswith(".index.json"):
            _inspect_config(path, _read(path))


def require_safetensors(folder: Path, *names: str) -> None:
    """Raises `UntrustedModelError` unless a folder holds one of these files: else pickled weights would be
    read.
    """
    if not any((folder / name).is_file() for name in names):
        raise UntrustedModelError(f"holds no {' or '.join(names)}")


def _read(path: Path) -> Any:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise UntrustedModelError(
            f"{path.name} has {path.stat().st_size:,} bytes; no configuration is so large"
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UntrustedModelError(f"{path.name} is no valid JSON: {error}") from error


def _inspect_config(path: Path, content: Any) -> None:
    for key, value in _items(content):
        if key in _FORBIDDEN and value:
            raise UntrustedModelError(f"{path.name} asks for `{key}`; models that need it are not loaded")
        if key == "pretrained_cfg" and isinstance(value, dict) and (found := _redirection(value)):
            raise UntrustedModelError(
                f"{path.name} takes its weights from elsewhere (`{found}`); remove that entry"
            )
    if path.name == "model_index.json":
        _inspect_pipeline(content)
    if path.name == "modules.json":
        _inspect_modules(content)


def _redirection(pretrained: dict[str, Any]) -> str | None:
    return next((name for name in _REDIRECTIONS if pretrained.get(name)), None)


def _inspect_pipeline(content: Any) -> None:
    """Raises for a pipeline, or a part of one, that is no class of the libraries'."""
    name = content.get("_class_name") if isinstance(content, dict) else None
    if not isinstance(name, str):
        raise UntrustedModelError(
            f"model_index.json names the pipeline {name!r}; only diffusers' own are loaded"
        )
    for part, value in content.items():
        listed = isinstance(value, list) and len(value) == 2 and not part.startswith("_")
        if listed and value[0] not in _LIBRARIES:
            raise UntrustedModelError(
                f"model_index.json takes its {part} from '{value[0]}'; only parts of diffusers and "
                f"transformers are loaded"
            )


def _inspect_modules(content: Any) -> None:
    """Raises for a part of a sentence model that is no class of sentence-transformers'."""
    for module in content if isinstance(content, list) else [content]:
        kind = module.get("type") if isinstance(module, dict) else None
        if not str(kind).startswith("sentence_transformers."):
            raise UntrustedModelError(
                f"modules.json names a part {kind!r}; only parts of sentence_transformers are loaded"
            )


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
