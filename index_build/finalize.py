"""Finished shards become the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from freeda.errors import FreedaError, NothingBuiltError, OutputError, reason
from freeda.index.format import Manifest
from freeda.index.keys import KeyOptions
from freeda.index.writer import Origin, write_index
from index_build.report import INSPECTED_SHARDS, Inspected, spread, write_report
from index_build.store.folders import BuildFolder, staged
from index_build.store.shards import ShardRecord, read_prototypes, read_rejects, read_samples
from index_build.store.storage import Folder

__all__ = ["finish"]


def finish(
    folder: BuildFolder,
    work: Folder,
    records: Sequence[ShardRecord],
    origin: Origin,
    keys: KeyOptions,
) -> Manifest:
    """Writes the index and its closing report, then removes the shards.

    records: of all shards, in the captions' order.
    keys: how they are indexed.
    Raises `NothingBuiltError`, `OutputError`, `WorkerError`.
    """
    rejects = pa.concat_tables(read_rejects(work, records))
    if not sum(record.prototypes for record in records):
        raise NothingBuiltError(_nothing_built(rejects), rejects)
    try:
        manifest = _write(folder.out, work, records, rejects, origin, keys)
    except OSError as error:
        if isinstance(error, FreedaError):
            raise
        raise OutputError(f"cannot write the index to '{folder.out}': {reason(error)}") from error
    folder.remove_work()
    return manifest


def _write(
    out: Folder,
    work: Folder,
    records: Sequence[ShardRecord],
    rejects: pa.Table,
    origin: Origin,
    keys: KeyOptions,
) -> Manifest:
    reasons = Counter(rejects.column("reason").to_pylist())
    with staged(out) as local:
        inspected = Inspected(
            rejects=reasons,
            samples=read_samples(work, spread(records, INSPECTED_SHARDS)),
            mask_pairs=sum(record.mask_pairs for record in records),
            same_masks=sum(record.same_masks for record in records),
        )
        return write_index(
            local,
            read_prototypes(work, records),
            rejects,
            sum(record.captions for record in records),
            origin,
            keys,
            lambda manifest: write_report(local, manifest, inspected),
        )


def _nothing_built(rejects: pa.Table) -> str:
    reasons = Counter(rejects.column("reason").to_pylist()).most_common(3)
    listed = ", ".join(f"{count} x {why}" for why, count in reasons)
    return f"no caption gave a prototype ({listed}); give captions that name visible things"
