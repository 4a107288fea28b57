"""What decides a build's prototypes, and the id that keeps different builds apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from freeda import __version__
from freeda.errors import ConfigError
from freeda.presets.settings import Preset

__all__ = ["ROLES", "BuildConfig", "CaptionColumns", "build_id", "caption_seed", "differences"]

_DECIDING_PACKAGES = (
    *("torch", "diffusers", "transformers", "open_clip_torch", "timm"),
    "inflect",
)
_SAME_AS: Mapping[tuple[str, str], str] = {}
"""Minor releases that give the same prototypes as an earlier one: ("torch", "2.15"): "2.14"."""
ROLES = ("diffusion", "clip", "backbone")
"""The models of a preset that a build uses."""


@dataclass(frozen=True, kw_only=True)
class CaptionColumns:
    """Which part of a parquet is read.

    caption_column, id_column, nouns_column: names in the parquet; None looks for the common ones.
    limit: captions to take, from the start; None takes all.
    """

    caption_column: str | None = None
    id_column: str | None = None
    nouns_column: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; expected 1 or more, or none")


@dataclass(frozen=True, kw_only=True)
class BuildConfig(CaptionColumns):
    """Everything that decides a build's prototypes; where and how fast it runs is no part of it.

    seed: of all images, together with each caption's id.
    tagger: by whose tags nouns are found: pattern, gruut, or spacy:MODEL.
    shard_size: captions with nouns per task; a multiple of the preset's batch fills all batches.
    thumbnail: longer side in pixels.
    """

    preset: Preset
    seed: int = 0
    tagger: str = "pattern"
    shard_size: int = 32
    thumbnail: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in ROLES:
            self.preset.model_ids(role)
        for name in ("shard_size", "thumbnail"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")

    def content(
        self, captions_digest: str, models: Mapping[str, str], tagging: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Everything that decides the prototypes, as plain data: settings, the preset's offline numbers,
        captions, weights, precision and versions.

        models: fingerprints and precision. The versions are those of the packages that decide the values.
        tagging: how nouns are found: the version of the rules, and the identity of the tagger.
        Left out are the batch size, which may be lowered in the middle of a build, the precision that the
        preset asks for, beside the one that the models have, and numbers that only the online stage reads.
        """
        preset = self.preset.shareable().as_dict()
        online = preset["segmentation"]
        return {
            "freeda": __version__,
            "captions": captions_digest,
            "seed": self.seed,
            "shard_size": self.shard_size,
            "limit": self.limit,
            "caption_column": self.caption_column,
            "id_column": self.id_column,
            "nouns_column": self.nouns_column,
            "tagging": dict(tagging),
            "versions": package_versions(),
            "thumbnail": self.thumbnail,
            "preset": {
                "models": {role: preset["models"][role] for role in ROLES},
                "synthesis": {
                    name: v for name, v in preset["synthesis"].items() if name not in ("batch", "precision")
                },
                "localization": preset["localization"],
                "segmentation": {name: online[name] for name in ("dense_size", "templates")},
            },
            "weights": dict(models),
        }


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the prototypes, without patch releases, which change no result.

    A minor release that has been found to change nothing counts as the one before it (`_SAME_AS`).
    """
    found = {}
    for name in _DECIDING_PACKAGES:
        minor = ".".join(version(name).split(".")[:2])
        found[name] = _SAME_AS.get((name, minor), minor)
    return found


def build_id(content: Mapping[str, Any]) -> str:
    """16 hex digits that name a build, and its work folder."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two builds' contents, one line each: `preset.synthesis.steps 12 -> 20`."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{name} {_shown(before.get(name))} -> {_shown(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def _shown(value: str | None) -> str:
    if value is None:
        return "(none)"
    return value if len(value) <= 40 else f"{value[:37]}..."


def caption_seed(base_seed: int, caption_id: str) -> int:
    """The seed of a caption's image: the same in any shard, batch, worker or run."""
    digest = hashlib.sha256(f"{base_seed}:{caption_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
