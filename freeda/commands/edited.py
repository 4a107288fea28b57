"""What a command says of the index that it has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freeda.index.format import Manifest

__all__ = ["edited_text"]


def edited_text(name: str, manifest: Manifest, note: str) -> str:
    return f"{name}: {manifest.prototypes:,} prototypes of {manifest.nouns:,} nouns ({note})"
