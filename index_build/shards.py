"""Prototype shards on disk: written aside, renamed, and only then marked as done."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeda.records import Prototype, Reject
from index_build.prototypes import ShardOutcome

__all__ = [
    "ShardReport",
    "count_nouns",
    "read_prototypes",
    "read_rejects",
    "read_report",
    "reject_table",
    "shard_path",
    "write_shard",
]

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
_REJECT_SCHEMA = pa.schema([("caption_id", pa.string()), ("noun", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a finished shard holds; all that a task sends back."""

    shard: int
    captions: int
    images: int
    prototypes: int
    rejects: dict[str, int]
    seconds: dict[str, float]


def shard_path(work: Path, shard: int, suffix: str = ".parquet") -> Path:
    return work / f"shard-{shard:05d}{suffix}"


def write_shard(work: Path, shard: int, captions: int, outcome: ShardOutcome) -> ShardReport:
    """Writes prototypes and rejects, then the marker that makes the shard count."""
    report = ShardReport(
        shard=shard,
        captions=captions,
        images=outcome.images,
        prototypes=len(outcome.prototypes),
        rejects=dict(sorted(Counter(reject.reason for reject in outcome.rejects).items())),
        seconds=outcome.seconds,
    )
    _write_table(_prototype_table(outcome.prototypes), shard_path(work, shard))
    _write_table(reject_table(outcome.rejects), shard_path(work, shard, ".rejects.parquet"))
    marker = shard_path(work, shard, ".done.json")
    partial = marker.with_suffix(f".{uuid4().hex}.partial")
    partial.write_text(json.dumps(asdict(report), sort_keys=True), encoding="utf-8")
    os.replace(partial, marker)
    return report


def read_report(work: Path, shard: int) -> ShardReport | None:
    """The report of a finished shard, None where there is none."""
    marker = shard_path(work, shard, ".done.json")
    if not marker.exists():
        return None
    return ShardReport(**json.loads(marker.read_text(encoding="utf-8")))


def read_prototypes(work: Path, shards: int) -> Iterator[Prototype]:
    """All prototypes in the captions' order, one shard in memory at a time."""
    for shard in range(shards):
        for row in pq.read_table(shard_path(work, shard)).to_pylist():
            yield _to_prototype(row)


def count_nouns(work: Path, shards: int) -> Counter[str]:
    """How many prototypes each noun has."""
    nouns: Counter[str] = Counter()
    for shard in range(shards):
        nouns.update(pq.read_table(shard_path(work, shard), columns=["noun"]).column(0).to_pylist())
    return nouns


def read_rejects(work: Path, shards: int) -> pa.Table:
    """All rejects in the captions' order."""
    return pa.concat_tables(
        [pq.read_table(shard_path(work, shard, ".rejects.parquet")) for shard in range(shards)]
    )


def reject_table(rejects: Sequence[Reject]) -> pa.Table:
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], _REJECT_SCHEMA)


def _prototype_table(prototypes: Sequence[Prototype]) -> pa.Table:
    rows = [{name: getattr(item, name) for name in _PROTOTYPE_SCHEMA.names} for item in prototypes]
    return pa.Table.from_pylist(rows, _PROTOTYPE_SCHEMA)


def _to_prototype(row: dict[str, Any]) -> Prototype:
    arrays = {name: np.asarray(row[name], np.float32) for name in ("key", "vector")}
    return Prototype(**(row | arrays))


def _write_table(table: pa.Table, path: Path) -> None:
    partial = path.with_suffix(f".{uuid4().hex}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
