"""Captions into a parquet file that `freeda build-index` reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import OutputError
from freeda.records import Caption

__all__ = ["write_captions"]

_ROWS_PER_GROUP = 10_000
_SCHEMA = pa.schema([("id", pa.string()), ("caption", pa.string()), ("nouns", pa.list_(pa.string()))])


def write_captions(captions: Iterable[Caption], path: Path, *, overwrite: bool = False) -> int:
    """Streams captions into a parquet file, written aside and renamed; returns how many there were.

    Raises `OutputError`, also for a file that is there already, unless `overwrite`.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' is there already; replace it with --overwrite, or choose another --out")
    partial = path.with_name(f".{path.name}.partial")
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(partial, _SCHEMA) as writer:
            for group in _groups(captions):
                writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
                written += len(group)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def _groups(captions: Iterable[Caption]) -> Iterator[list[dict[str, Any]]]:
    rows = ({"id": item.id, "caption": item.text, "nouns": item.nouns} for item in captions)
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group
