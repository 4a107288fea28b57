"""Finished shards become the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from freeda.errors import FreedaError, NothingBuiltError, OutputError
from freeda.index.format import Manifest
from freeda.index.writer import Origin, write_index
from index_build.store.folders import staged
from index_build.report import SAMPLES, spread, write_report
from index_build.store.shards import ShardReport, read_prototypes, read_rejects, read_samples
from index_build.store.storage import Place

__all__ = ["finalize"]


def finalize(
    out: Place,
    work: Place,
    reports: Sequence[ShardReport],
    origin: Origin,
    factory: str | None = None,
) -> Manifest:
    """Writes the index and its closing report into `out`.

    reports: of all shards, in the captions' order; factory: as `write_index` takes it.
    Raises `CaptionsError`, `OutputError`, `WorkerError`.
    """
    rejects = pa.concat_tables(read_rejects(work, reports))
    if not sum(report.prototypes for report in reports):
        raise NothingBuiltError(_nothing_built(rejects), rejects)
    try:
        with staged(out) as folder:
            reasons = Counter(rejects.column("reason").to_pylist())
            samples = read_samples(work, spread(reports, SAMPLES))
            return write_index(
                folder,
                read_prototypes(work, reports),
                rejects,
                sum(report.captions for report in reports),
                origin,
                factory,
                lambda manifest: write_report(folder, manifest, reasons, samples),
            )
    except OSError as error:
        if isinstance(error, FreedaError):
            raise
        raise OutputError(f"cannot write the index to '{out}': {error.strerror or error}") from error


def _nothing_built(rejects: pa.Table) -> str:
    reasons = Counter(rejects.column("reason").to_pylist()).most_common(3)
    listed = ", ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"no caption gave a prototype ({listed}); give captions that name visible things"
