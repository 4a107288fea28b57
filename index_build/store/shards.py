"""Prototype shards in a work folder: written whole, and only then marked as done, with their digests."""

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
from freeda.index.format import REJECT_SCHEMA
from freeda.records import Prototype, Reject
from index_build.generation.outcome import ShardOutcome
from index_build.generation.samples import Sample
from index_build.store.storage import Place

__all__ = [
    "ShardReport",
    "WorkState",
    "forget_report",
    "forget_split",
    "half_names",
    "mark_split",
    "mark_started",
    "read_prototypes",
    "read_rejects",
    "read_report",
    "read_samples",
    "read_state",
    "reject_table",
    "shard_name",
    "take_started",
    "write_shard",
]

_PROTOTYPES, _REJECTS, _SAMPLE = ".parquet", ".rejects.parquet", ".sample.parquet"
_DONE, _STARTED, _SPLIT = ".done.json", ".started", ".split"
_PROTOTYPE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("noun", pa.string()),
        ("caption_id", pa.string()),
        ("caption", pa.string()),
        ("key", pa.list_(pa.float32())),
        ("vector", pa.list_(pa.float32())),
        ("area", pa.float64()),
        ("peak", pa.float64()),
        ("seed", pa.int64()),
        ("thumbnail", pa.binary()),
    ]
)
_SAMPLE_SCHEMA = pa.schema(
    [("caption", pa.string()), ("nouns", pa.list_(pa.string())), ("strip", pa.binary())]
)


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a finished shard holds; all that a task sends back.

    name: of its files; shards sort by it into the captions' order; captions: rows of their source,
    those without nouns among them; digests: sha256 by file suffix.
    """

    name: str
    captions: int
    images: int
    prototypes: int
    rejects: dict[str, int]
    seconds: dict[str, float]
    digests: dict[str, str]
    sizes: dict[str, int]


@dataclass(frozen=True)
class WorkState:
    """What earlier runs have left.

    reports: of finished shards by name; damaged: names of those that have a marker and yet must be built;
    split: names of those that are built as two halves.
    """

    reports: dict[str, ShardReport] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    split: frozenset[str] = frozenset()

    @property
    def finished(self) -> dict[str, int]:
        """Rows of the shards that are built and are not to be divided, by name."""
        return {name: report.captions for name, report in self.reports.items() if name not in self.split}


def shard_name(number: int) -> str:
    return f"shard-{number:08d}"


def half_names(name: str) -> tuple[str, str]:
    """The names of a shard's two halves, in order."""
    return f"{name}-0", f"{name}-1"


def write_shard(work: Place, name: str, captions: int, outcome: ShardOutcome) -> ShardReport:
    """Writes prototypes and rejects, then the marker that makes the shard count."""
    contents = {
        _PROTOTYPES: _to_parquet(_prototype_table(outcome.prototypes)),
        _REJECTS: _to_parquet(reject_table(outcome.rejects)),
        _SAMPLE: _to_parquet(_sample_table(outcome.sample)),
    }
    report = ShardReport(
        name=name,
        captions=captions,
        images=outcome.images,
        prototypes=len(outcome.prototypes),
        rejects=dict(sorted(Counter(reject.reason for reject in outcome.rejects).items())),
        seconds=outcome.seconds,
        digests={suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()},
        sizes={suffix: len(content) for suffix, content in contents.items()},
    )
    for suffix, content in contents.items():
        work.write(name + suffix, content)
    work.write(name + _DONE, json.dumps(asdict(report), sort_keys=True).encode())
    return report


def read_report(work: Place, name: str) -> ShardReport | None:
    """The report of a finished shard whose files have their full size; None where it must be built."""
    try:
        return _whole_report(work.read(name + _DONE), work.size)
    except FileNotFoundError:
        return None


def read_state(work: Place) -> WorkState:
    """Of all shards at once: one listing, and the markers a few at a time."""
    sizes = work.sizes()
    finished = [name for name in sizes if name.endswith(_DONE)]
    reports = {
        name.removesuffix(_DONE): _whole_report(content, sizes.get)
        for name, content in zip(finished, work.read_all(finished), strict=True)
    }
    return WorkState(
        reports={name: report for name, report in reports.items() if report is not None},
        damaged=frozenset(name for name, report in reports.items() if report is None),
        split=frozenset(name.removesuffix(_SPLIT) for name in sizes if name.endswith(_SPLIT)),
    )


def _whole_report(content: bytes, size_of: Callable[[str], int | None]) -> ShardReport | None:
    try:
        report = ShardReport(**json.loads(content))
    except (ValueError, TypeError):  # a marker cut short is no marker
        return None
    whole = all(size_of(report.name + suffix) == size for suffix, size in report.sizes.items())
    return report if whole else None


def mark_started(work: Place, name: str, run: str) -> None:
    """Notes that a worker has begun with a shard in a run."""
    work.write(f"{name}.{run}{_STARTED}", b"")


def take_started(work: Place, name: str, run: str) -> bool:
    """Whether a worker has begun with a shard in this run since this was last asked."""
    begun = work.exists(f"{name}.{run}{_STARTED}")
    work.discard(f"{name}.{run}{_STARTED}")
    return begun


def forget_report(work: Place, name: str) -> None:
    """Makes a finished shard one that must be built."""
    work.discard(name + _DONE)


def mark_split(work: Place, name: str) -> None:
    """Notes for good that a shard is built as two halves."""
    work.write(name + _SPLIT, b"")


def forget_split(work: Place, name: str) -> None:
    """Makes a divided shard one that is built whole."""
    work.discard(name + _SPLIT)


def read_prototypes(work: Place, reports: Sequence[ShardReport]) -> Iterator[Prototype]:
    """All prototypes in the captions' order, a few shards in memory at a time.

    Raises `WorkerError` for a shard whose bytes are not those that were written, after making sure
    that the next run builds it again.
    """
    for table in _read_tables(work, reports, _PROTOTYPES):
        yield from map(_to_prototype, table.to_pylist())


def read_rejects(work: Place, reports: Sequence[ShardReport]) -> Iterator[pa.Table]:
    """All rejects in the captions' order, a table a shard; raises as `read_prototypes` does."""
    return _read_tables(work, reports, _REJECTS)


def read_samples(work: Place, reports: Sequence[ShardReport]) -> list[Sample]:
    """The samples of some shards; raises as `read_prototypes` does."""
    rows = [row for table in _read_tables(work, reports, _SAMPLE) for row in table.to_pylist()]
    return [Sample(row["caption"], tuple(row["nouns"]), row["strip"]) for row in rows]


def _read_tables(work: Place, reports: Sequence[ShardReport], suffix: str) -> Iterator[pa.Table]:
    contents = work.read_all(report.name + suffix for report in reports)
    for report, content in zip(reports, contents, strict=True):
        if hashlib.sha256(content).hexdigest() != report.digests[suffix]:
            forget_report(work, report.name)
            raise WorkerError(
                f"{report.name} in '{work}' is not as it was written; run the same command again to build it "
                f"anew"
            )
        yield pq.read_table(pa.BufferReader(content))


def reject_table(rejects: Sequence[Reject]) -> pa.Table:
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], REJECT_SCHEMA)


def _sample_table(sample: Sample | None) -> pa.Table:
    return pa.Table.from_pylist([asdict(sample)] if sample else [], _SAMPLE_SCHEMA)


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
