"""Looking into an index: prototypes of a noun or near a sentence, their neighbours, and an index without
some.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.files import user_folder
from freeda.index.editing import leave_out
from freeda.index.finding import search_paths
from freeda.index.format import MANIFEST, Manifest
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import FreedaSegmenter
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.own_prototypes import add_prototypes
from freeda.records import Prototype
from freeda.web.marks import DrawnMark
from freeda.web.studio import Studio

__all__ = ["Gallery"]

_COLUMNS = ("id", "noun", "caption", "area", "peak")
_NEIGHBORS = 12
_FREQUENT = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_PICTURES = {b"RIFF": "image/webp", b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}
"""Media types of thumbnails by how their files begin."""


class Gallery:
    """The indexes of a studio, as plain data."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def summary(self, name: str) -> dict[str, Any]:
        """What an index holds, with its most frequent nouns. Raises `ConfigError` for an unknown index."""
        index = self._studio.index(name)
        manifest, counts = index.manifest, _noun_counts(index)
        return {
            "name": name,
            "prototypes": manifest.prototypes,
            "nouns": manifest.nouns,
            "captions": manifest.captions,
            "rejects": manifest.rejects,
            "preset": str(manifest.preset["name"]),
            "licenses": dict(manifest.licenses),
            "frequent": [{"noun": noun, "count": count} for noun, count in list(counts.items())[:_FREQUENT]],
        }

    def search(self, name: str, query: str, first: int, count: int) -> dict[str, Any]:
        """Prototypes of a noun that the index has, or those whose keys are nearest to a text.

        first, count: which of them.
        Raises `ConfigError` for an unknown index, or nothing to search for.
        """
        index, text = self._studio.index(name), " ".join(query.lower().split())
        if not text:
            raise ConfigError("nothing to search for; type a noun or a sentence")
        if text in _noun_counts(index):
            (rows,) = index.rows_by_noun([text])
            return {"by": "noun", "total": len(rows), "rows": self._rows(index, rows[first : first + count])}
        similarities, rows = self._nearest(name, index, text, first + count)
        found = self._rows(index, rows[first:])
        for item, similarity in zip(found, similarities[first:], strict=True):
            item["similarity"] = round(float(similarity), 4)
        return {"by": "text", "total": len(index), "rows": found}

    def _nearest(
        self, name: str, index: PrototypeIndex, text: str, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        method = self._method(name)
        key = method.clip.embed_classes([ClassName(text)], method.settings.templates)
        similarities, rows = index.search(key, min(count, len(index)))
        held = rows[0] >= 0
        return similarities[0][held], rows[0][held]

    def row(self, name: str, row: int) -> dict[str, Any]:
        """One prototype, and those that look most like it. Raises `ConfigError` for an unknown row."""
        index = self._studio.index(name)
        _require_row(index, row)
        near = index.search_vectors(index.vectors([row]), _NEIGHBORS + 1)[0]
        others = [int(other) for other in near if other not in (row, -1)][:_NEIGHBORS]
        return {**self._rows(index, [row])[0], "neighbors": self._rows(index, others)}

    def thumbnail(self, name: str, row: int) -> tuple[bytes, str] | None:
        """A prototype's picture and its media type; None where there is none."""
        index = self._studio.index(name)
        _require_row(index, row)
        content: bytes = index.rows([row], ["thumbnail"])[0]["thumbnail"]
        kind = next((kind for start, kind in _PICTURES.items() if content.startswith(start)), None)
        return None if kind is None else (content, kind)

    def write_without(self, name: str, rows: Sequence[int], new_name: str) -> dict[str, Any]:
        """A new index among the user's own, without some prototypes; the page lists it from then on.

        Raises `ConfigError` for a name that is taken or no name, and the errors of writing an index.
        """
        folder = self._place_of(new_name)
        if not rows:
            raise ConfigError("no prototypes are marked; mark those to leave out")
        if len(set(rows)) >= len(self._studio.index(name)):
            raise ConfigError("all prototypes are marked; leave some")
        return self._listed(folder, leave_out(self._studio.index(name), folder, rows=rows).manifest)

    def marked(self, name: str, marks: tuple[DrawnMark, ...]) -> tuple[Prototype, ...]:
        """The prototypes of marks, as they serve already. Raises `ConfigError` where there are none."""
        if not marks:
            raise ConfigError("nothing is marked on any image; draw a box or a stroke first")
        return self._method(name, marks).own

    def write_with(self, name: str, prototypes: Sequence[Prototype], new_name: str) -> dict[str, Any]:
        """A new index among the user's own, with prototypes of marks; the page lists it from then on.

        Raises `ConfigError` for a name that is taken or no name, and the errors of writing an index.
        """
        folder = self._place_of(new_name)
        manifest = add_prototypes(self._studio.index(name), prototypes, folder)
        added = manifest.prototypes - len(self._studio.index(name))
        return {**self._listed(folder, manifest), "added": added}

    def _place_of(self, new_name: str) -> Path:
        """Where an index of the user's own is written; raises `ConfigError` for a name that will not do."""
        if not _NAME.fullmatch(new_name):
            raise ConfigError("name the new index with letters, digits, '.', '_' and '-'")
        taken = any((place / MANIFEST).exists() for place in search_paths(new_name))
        if new_name in self._studio.indexes or taken:
            raise ConfigError(f"there is an index '{new_name}' already; choose another name")
        return user_folder() / "indexes" / new_name

    def _listed(self, folder: Path, manifest: Manifest) -> dict[str, Any]:
        self._studio.indexes[folder.name] = str(folder)
        return {"name": folder.name, "folder": str(folder), "prototypes": manifest.prototypes}

    def _method(self, name: str, marks: tuple[DrawnMark, ...] = ()) -> FreedaMethod:
        segmenter = cast(FreedaSegmenter, self._studio.segmenter("freeda", name, marks=marks))
        return cast(FreedaMethod, segmenter.method)

    def _rows(self, index: PrototypeIndex, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        numbers = [int(row) for row in rows]
        return [
            {
                "row": number,
                **held,
                "area": round(float(held["area"]), 4),
                "peak": round(float(held["peak"]), 3),
            }
            for number, held in zip(numbers, index.rows(numbers, _COLUMNS), strict=True)
        ]


@lru_cache(maxsize=16)
def _noun_counts(index: PrototypeIndex) -> dict[str, int]:
    return index.noun_counts()


def _require_row(index: PrototypeIndex, row: int) -> None:
    if not 0 <= row < len(index):
        raise ConfigError(f"the index has no row {row}; its rows end at {len(index) - 1}")
