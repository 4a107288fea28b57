"""Captions into a parquet file that `freeda build-index` reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from more_itertools import chunked

from freeda.errors import OutputError, reason
from freeda.files import replacing
from freeda.records import Caption

__all__ = ["require_new", "write_captions"]

_ROWS_PER_GROUP = 10_000
_SCHEMA = pa.schema([("id", pa.string()), ("caption", pa.string()), ("nouns", pa.list_(pa.string()))])


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raises `OutputError` where the file exists, unless `overwrite`."""
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists already; replace it with --overwrite, or choose another --out")


def write_captions(captions: Iterable[Caption], path: Path, *, overwrite: bool = False) -> int:
    """Streams captions into a parquet file; returns how many there were.

    Raises `OutputError`, also where the file exists, unless `overwrite`.
    """
    require_new(path, overwrite=overwrite)
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, pq.ParquetWriter(partial, _SCHEMA) as writer:
            for group in chunked(captions, _ROWS_PER_GROUP):
                rows = [{"id": item.id, "caption": item.text, "nouns": item.nouns} for item in group]
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                written += len(group)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {reason(error)}") from error
    return written
