"""Shards of prototypes in a work folder: files first, then a marker with their digests."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import WorkerError
from freeda.index.format import PROTOTYPE_COLUMNS, parquet_table, reject_table
from freeda.records import Prototype
from index_build.generation.outcome import ShardOutcome
from index_build.generation.samples import Sample
from index_build.store.storage import Folder

__all__ = [
    "ShardRecord",
    "WorkState",
    "forget_record",
    "forget_split",
    "mark_split",
    "mark_started",
    "read_prototypes",
    "read_rejects",
    "read_record",
    "read_samples",
    "read_state",
    "pop_started",
    "write_shard",
]

_PROTOTYPES, _REJECTS, _SAMPLES = ".parquet", ".rejects.parquet", ".samples.parquet"
_DONE, _STARTED, _SPLIT = ".done.json", ".started", ".split"
_PROTOTYPE_SCHEMA = pa.schema(list(PROTOTYPE_COLUMNS.items()))
_SAMPLE_SCHEMA = pa.schema(
    [
        ("caption", pa.string()),
        ("nouns", pa.list_(pa.string())),
        ("strip", pa.binary()),
        ("peak", pa.float64()),
        ("kind", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a finished shard holds, as its marker says.

    name: of its files; sorted by name, shards are in the captions' order.
    captions: rows of the source, those without nouns included.
    images, prototypes: counts.
    rejects: counts by reason.
    seconds: by stage.
    mask_pairs, same_masks: pairs of masks of one image, and those that cover the same pixels.
    digests, sizes: sha256 and bytes by file suffix.
    """

    name: str
    captions: int
    images: int
    prototypes: int
    rejects: dict[str, int]
    seconds: dict[str, float]
    mask_pairs: int
    same_masks: int
    digests: dict[str, str]
    sizes: dict[str, int]


@dataclass(frozen=True)
class WorkState:
    """What earlier runs left in a work folder.

    records: of finished shards, by name.
    damaged: names of shards with a marker whose files are not complete.
    split: names of shards that are built as two halves.
    """

    records: dict[str, ShardRecord] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    split: frozenset[str] = frozenset()

    @property
    def finished(self) -> dict[str, int]:
        """Rows of the finished shards that were not split, by name."""
        return {name: record.captions for name, record in self.records.items() if name not in self.split}


def write_shard(work: Folder, name: str, captions: int, outcome: ShardOutcome) -> ShardRecord:
    """Writes prototypes and rejects, then the marker that makes the shard finished."""
    contents = {
        _PROTOTYPES: _to_parquet(_prototype_table(outcome.prototypes)),
        _REJECTS: _to_parquet(reject_table(outcome.rejects)),
        _SAMPLES: _to_parquet(_sample_table(outcome.samples.samples())),
    }
    record = ShardRecord(
        name=name,
        captions=captions,
        images=outcome.images,
        prototypes=len(outcome.prototypes),
        rejects=dict(sorted(Counter(reject.reason for reject in outcome.rejects).items())),
        seconds=outcome.seconds,
        mask_pairs=outcome.overlaps.pairs,
        same_masks=outcome.overlaps.same,
        digests={suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()},
        sizes={suffix: len(content) for suffix, content in contents.items()},
    )
    for suffix, content in contents.items():
        work.write(name + suffix, content)
    work.write(name + _DONE, json.dumps(asdict(record), sort_keys=True).encode())
    return record


def read_record(work: Folder, name: str) -> ShardRecord | None:
    """The record of a finished shard whose files are complete; None where it must be built."""
    try:
        return _complete_record(work.read(name + _DONE), work.size)
    except FileNotFoundError:
        return None


def read_state(work: Folder) -> WorkState:
    """The state of all shards, from one listing and their markers, which are read a few at a time."""
    sizes = work.sizes()
    finished = [name for name in sizes if name.endswith(_DONE)]
    records = {
        name.removesuffix(_DONE): _complete_record(content, sizes.get)
        for name, content in zip(finished, work.read_all(finished), strict=True)
    }
    return WorkState(
        records={name: record for name, record in records.items() if record is not None},
        damaged=frozenset(name for name, record in records.items() if record is None),
        split=frozenset(name.removesuffix(_SPLIT) for name in sizes if name.endswith(_SPLIT)),
    )


def _complete_record(content: bytes, size_of: Callable[[str], int | None]) -> ShardRecord | None:
    try:
        record = ShardRecord(**json.loads(content))
    except (ValueError, TypeError):  # a marker cut short is no marker
        return None
    whole = all(size_of(record.name + suffix) == size for suffix, size in record.sizes.items())
    return record if whole else None


def mark_started(work: Folder, name: str, run: str) -> None:
    """Notes that a worker has started a shard in a run."""
    work.write(f"{name}.{run}{_STARTED}", b"")


def pop_started(work: Folder, name: str, run: str) -> bool:
    """Whether a worker has started a shard in this run; the note is removed."""
    started = work.exists(f"{name}.{run}{_STARTED}")
    work.discard(f"{name}.{run}{_STARTED}")
    return started


def forget_record(work: Folder, name: str) -> None:
    """Removes a shard's marker: it must be built again."""
    work.discard(name + _DONE)


def mark_split(work: Folder, name: str) -> None:
    """Notes for all runs that a shard is built as two halves."""
    work.write(name + _SPLIT, b"")


def forget_split(work: Folder, name: str) -> None:
    """Removes that note: the shard is built whole again."""
    work.discard(name + _SPLIT)


def read_prototypes(work: Folder, records: Sequence[ShardRecord]) -> Iterator[Prototype]:
    """All prototypes in the captions' order, a few shards in memory at a time.

    Raises `WorkerError` for a shard whose bytes are not as written; the next run builds it again.
    """
    for table in _read_tables(work, records, _PROTOTYPES):
        yield from map(_to_prototype, table.to_pylist())


def read_rejects(work: Folder, records: Sequence[ShardRecord]) -> Iterator[pa.Table]:
    """All rejects in the captions' order, one table per shard; raises as `read_prototypes` does."""
    return _read_tables(work, records, _REJECTS)


def read_samples(work: Folder, records: Sequence[ShardRecord]) -> list[Sample]:
    """The sample pictures of some shards; raises as `read_prototypes` does."""
    rows = [row for table in _read_tables(work, records, _SAMPLES) for row in table.to_pylist()]
    return [Sample(**row | {"nouns": tuple(row["nouns"])}) for row in rows]


def _read_tables(work: Folder, records: Sequence[ShardRecord], suffix: str) -> Iterator[pa.Table]:
    contents = work.read_all(record.name + suffix for record in records)
    for record, content in zip(records, contents, strict=True):
        if hashlib.sha256(content).hexdigest() != record.digests[suffix]:
            forget_record(work, record.name)
            raise WorkerError(
                f"{record.name} in '{work}' is not as it was written; run the same command again to build it "
                f"again"
            )
        yield parquet_table(content)


def _sample_table(samples: Sequence[Sample]) -> pa.Table:
    return pa.Table.from_pylist(list(map(asdict, samples)), _SAMPLE_SCHEMA)


def _prototype_table(prototypes: Sequence[Prototype]) -> pa.Table:
    rows = [{name: getattr(item, name) for name in _PROTOTYPE_SCHEMA.names} for item in prototypes]
    return pa.Table.from_pylist(rows, _PROTOTYPE_SCHEMA)


def _to_prototype(row: dict[str, Any]) -> Prototype:
    arrays = {name: np.asarray(row[name], np.float32) for name in ("key", "vector")}
    return Prototype(**(row | arrays))


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
