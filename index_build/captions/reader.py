"""Captions streamed from parquet files; rows that are no captions become rejects."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from freeda.errors import CaptionsError
from freeda.records import Caption, Reject
from index_build.captions.seen_ids import SeenIds
from index_build.config import CaptionColumns
from index_build.store.storage import find_parquet

__all__ = ["DUPLICATE_ID", "MAX_LENGTH", "TOO_LONG", "CaptionSource", "DigestedRows", "open_captions"]

DUPLICATE_ID = "duplicate id"
MAX_LENGTH = 20_000
"""Characters of a caption; CLIP reads about 300 of them, and the tagger's time grows with the text."""
TOO_LONG = f"longer than {MAX_LENGTH:,} characters"
_SHOWN = 200
"""Characters of a refused caption that are kept."""

_COMMON_CAPTION_COLUMNS = ("caption", "text", "TEXT", "sentence")
_COMMON_ID_COLUMNS = ("id", "caption_id")
_COMMON_NOUN_COLUMNS = ("nouns",)
_ROWS_PER_READ = 1024


@dataclass(frozen=True, kw_only=True)
class CaptionSource:
    """Readable captions: files in order and the columns to take.

    known: ids and texts of captions that are skipped, for they are in an index already.
    """

    system: AbstractFileSystem
    files: tuple[str, ...]
    caption_column: str
    id_column: str | None
    nouns_column: str | None
    limit: int | None = None
    known: frozenset[tuple[str, str]] = frozenset()

    def __iter__(self) -> Iterator[Caption | Reject]:
        """Every row, in order, as a caption or as a reject with its reason."""
        ids = _Ids()
        for number, row in enumerate(self._rows()):
            if number == self.limit:
                return
            item = self._parse(number, row, ids)
            if isinstance(item, Reject) or (item.id, item.text) not in self.known:
                yield item

    def digest(self) -> tuple[str, int]:
        """A digest of all rows in order, and how many there are."""
        rows = DigestedRows(self)
        for _ in rows:
            pass
        return rows.digest()

    def _rows(self) -> Iterator[dict[str, Any]]:
        columns = [c for c in (self.caption_column, self.id_column, self.nouns_column) if c]
        for path in self.files:
            with _opened(self.system, path) as file:
                batches = file.iter_batches(_ROWS_PER_READ, columns=columns, use_threads=False)
                while (batch := _next_batch(path, batches)) is not None:
                    yield from _as_bytes(batch).to_pylist()

    def _parse(self, number: int, row: dict[str, Any], ids: _Ids) -> Caption | Reject:
        text, readable = _decode(row[self.caption_column])
        cleaned = " ".join(text.split())
        if self.id_column is None or row[self.id_column] is None:
            identity = ids.derived(cleaned, number)
        else:
            identity = _decode(row[self.id_column])[0]
            if not ids.given.add(identity):
                return Reject(caption_id=identity, caption=_shown(cleaned), noun="", reason=DUPLICATE_ID)
        if not cleaned:
            return Reject(caption_id=identity, caption="", noun="", reason="empty caption")
        if not readable:
            return Reject(caption_id=identity, caption=_shown(cleaned), noun="", reason="not UTF-8 text")
        if len(cleaned) > MAX_LENGTH:
            return Reject(caption_id=identity, caption=_shown(cleaned), noun="", reason=TOO_LONG)
        nouns = row[self.nouns_column] if self.nouns_column else None
        names = None if nouns is None else tuple(_decode(noun)[0] for noun in nouns)
        return Caption(id=identity, text=cleaned, nouns=names)


def _as_bytes(batch: pa.RecordBatch) -> pa.Table:
    """Text as bytes: one row that is not UTF-8 would fail the reading of all others as text."""
    return pa.table(
        {name: _bytes_column(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    )


def _bytes_column(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(column.type):
        return column.cast(pa.large_binary())
    if _is_list_of_text(column.type) and not pa.types.is_dictionary(column.type.value_type):
        return column.cast(pa.large_list(pa.large_binary()))
    return column


def _decode(value: object) -> tuple[str, bool]:
    """A value as text, and whether it was valid UTF-8; invalid bytes are shown as escapes."""
    if not isinstance(value, bytes):
        return "" if value is None else str(value), True
    try:
        return value.decode(), True
    except UnicodeDecodeError:
        return value.decode(errors="backslashreplace"), False


def open_captions(source: str, columns: CaptionColumns) -> CaptionSource:
    """Finds the files and checks the columns; raises `CaptionsError` with what is wrong."""
    system, files = find_parquet(source)
    if not files:
        raise CaptionsError(
            f"no captions at '{source}'; expected a parquet file, a folder of them, or a glob"
        )
    schemas = _read_schemas(system, files)
    schema = _common_schema(schemas)
    caption = _choose_column(schema, columns.caption_column, _COMMON_CAPTION_COLUMNS, "caption", source)
    if caption is None:
        raise CaptionsError(
            f"'{source}' has no caption column; its columns are {', '.join(schema.names)}; "
            f"name one with --caption-column"
        )
    _require_single(files, schemas, [caption])
    if not _is_text(schema.field(caption).type):
        raise CaptionsError(
            f"column '{caption}' of '{source}' holds {schema.field(caption).type}; expected text"
        )
    identity = _choose_column(schema, columns.id_column, _COMMON_ID_COLUMNS, "id", source)
    nouns = _choose_column(schema, columns.nouns_column, _COMMON_NOUN_COLUMNS, "nouns", source)
    if nouns is not None and not _is_list_of_text(schema.field(nouns).type):
        raise CaptionsError(
            f"column '{nouns}' of '{source}' holds {schema.field(nouns).type}; expected lists of text"
        )
    _require_single(files, schemas, [name for name in (caption, identity, nouns) if name])
    _require_same_types(files, schemas, [name for name in (caption, identity, nouns) if name])
    return CaptionSource(
        system=system,
        files=tuple(files),
        caption_column=caption,
        id_column=identity,
        nouns_column=nouns,
        limit=columns.limit,
    )


def _read_schemas(system: AbstractFileSystem, files: Sequence[str]) -> list[pa.Schema]:
    schemas, rows = [], 0
    for path in files:
        with _opened(system, path) as file:
            schemas.append(file.schema_arrow)
            rows += file.metadata.num_rows
    if not rows:
        raise CaptionsError(f"'{files[0]}' has no rows; expected at least one caption")
    return schemas


def _common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    names = set(schemas[0].names).intersection(*(schema.names for schema in schemas[1:]))
    return pa.schema([field for field in schemas[0] if field.name in names])


def _require_single(files: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str]) -> None:
    for path, schema in zip(files, schemas, strict=True):
        for name in columns:
            if (count := schema.names.count(name)) > 1:
                raise CaptionsError(f"'{path}' has {count} columns named '{name}'; rename all but one")


def _require_same_types(files: Sequence[str], schemas: Sequence[pa.Schema], columns: Sequence[str]) -> None:
    for path, schema in zip(files, schemas, strict=True):
        for name in columns:
            if schema.field(name).type != schemas[0].field(name).type:
                raise CaptionsError(
                    f"column '{name}' holds {schema.field(name).type} in '{path}' but "
                    f"{schemas[0].field(name).type} in '{files[0]}'; give all files the same types"
                )


def _next_batch(path: str, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (pa.ArrowInvalid, OSError) as error:
        raise CaptionsError(f"'{path}' is damaged: {str(error).splitlines()[0]}") from error


@contextmanager
def _opened(system: AbstractFileSystem, path: str) -> Iterator[pq.ParquetFile]:
    with ExitStack() as held:
        try:
            handle = held.enter_context(system.open(path, "rb"))
            file = held.enter_context(pq.ParquetFile(handle))
        except (pa.ArrowInvalid, OSError) as error:
            raise CaptionsError(
                f"'{path}' is no readable parquet file: {str(error).splitlines()[0]}"
            ) from error
        yield file


def _choose_column(
    schema: pa.Schema, asked: str | None, common: Sequence[str], kind: str, source: str
) -> str | None:
    if asked is None:
        return next((name for name in common if name in schema.names), None)
    if asked not in schema.names:
        raise CaptionsError(
            f"'{source}' has no column '{asked}' for --{kind}-column; "
            f"its columns are {', '.join(schema.names)}"
        )
    return asked


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list_of_text(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(listed and _is_text(kind.value_type))


class _Ids:
    """The ids of the rows so far. given: those that the rows have themselves."""

    def __init__(self) -> None:
        self.given = SeenIds()
        self._texts = SeenIds()
        self._repeats: Counter[str] = Counter()

    def derived(self, text: str, number: int) -> str:
        """An id by the text alone, so that moving rows changes no image; repeats are numbered."""
        if not text:
            return f"row-{number}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if self._texts.add(digest):
            return digest
        self._repeats[digest] += 1
        return f"{digest}-{self._repeats[digest] + 1}"


class DigestedRows:
    """Rows, with a digest of those that have been taken."""

    def __init__(self, rows: Iterable[Caption | Reject]) -> None:
        self._rows, self._total, self._count = rows, hashlib.sha256(), 0

    def __iter__(self) -> Iterator[Caption | Reject]:
        for item in self._rows:
            self._total.update(repr(item).encode("utf-8", "surrogatepass"))
            self._count += 1
            yield item

    def digest(self) -> tuple[str, int]:
        """A digest of the rows taken, in order, and how many they are."""
        return self._total.hexdigest(), self._count


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
