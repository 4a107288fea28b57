"""What a build depends on, and the fingerprint that keeps different builds apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freeda import __version__
from freeda.config import Preset
from freeda.errors import ConfigError

__all__ = ["BuildConfig", "caption_seed"]


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything that decides which prototypes come out; where and how fast it runs is no part of it.

    caption_column, id_column, nouns_column: names in the parquet; None picks the usual ones.
    limit: captions to take, from the start; thumbnail: side in pixels; shard_size: captions a task.
    """

    preset: Preset
    seed: int = 0
    shard_size: int = 32
    limit: int | None = None
    caption_column: str | None = None
    id_column: str | None = None
    nouns_column: str | None = None
    thumbnail: int = 64

    def __post_init__(self) -> None:
        for name in ("shard_size", "thumbnail"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}; expected 1 or more, or none")

    def as_dict(self) -> dict[str, Any]:
        """The settings beside the preset, as plain data."""
        return {
            "shard_size": self.shard_size,
            "limit": self.limit,
            "caption_column": self.caption_column,
            "id_column": self.id_column,
            "nouns_column": self.nouns_column,
            "thumbnail": self.thumbnail,
        }

    def fingerprint(self, captions_digest: str, models: Mapping[str, str]) -> str:
        """Names the work folder: settings, preset, captions, weights, precision and version together.

        The batch size is no part of it: it may be lowered in the middle of a build.
        """
        preset = self.preset.as_dict()
        preset["synthesis"] = preset["synthesis"] | {"batch": None}
        content = [__version__, self.as_dict(), self.seed, preset, captions_digest, dict(models)]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def caption_seed(base_seed: int, caption_id: str) -> int:
    """The seed of a caption's picture: the same whatever its shard, batch, worker or run."""
    digest = hashlib.sha256(f"{base_seed}:{caption_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
