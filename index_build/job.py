"""The batch job: captions into shards, shards through the cluster, finished shards into an index."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import IndexMismatchError, OutputError
from freeda.index.format import REJECTS, Manifest
from freeda.index.writer import Origin
from freeda.index.keys import check_factory
from index_build.captions.reader import CaptionSource, open_captions
from index_build.cluster.workers import connect, installed_models, usable_gpus
from index_build.config import BuildConfig, fingerprint
from index_build.captions.cutting import cut
from index_build.finalize import finalize
from index_build.store.folders import alone, check_target, open_work, other_builds, refresh_preset, remove_work
from index_build.cluster.progress import Progress, Report
from index_build.cluster.schedule import ShardSchedule
from index_build.store.shards import read_state
from index_build.store.storage import Place

__all__ = ["BuildSummary", "build_index"]


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did. `seconds` by stage, summed over workers, for the shards built in this run;
    damaged_shards: of an earlier run, found incomplete and built again.
    """

    out: str
    captions: int
    images: int
    prototypes: int
    nouns: int
    rejects: dict[str, int]
    seconds: dict[str, float]
    elapsed: float
    resumed_shards: int = 0
    damaged_shards: int = 0
    already_built: bool = False


def build_index(
    captions: str | CaptionSource,
    out: str | Path,
    config: BuildConfig,
    *,
    workers: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    device: str = "auto",
    factory: str | None = None,
    overwrite: bool = False,
    weights: Mapping[str, str] | None = None,
    report: Report = lambda progress: None,
) -> BuildSummary:
    """Builds an index from a parquet of captions; called again after an interruption, it goes on.

    captions, out: paths or URLs that fsspec reaches; captions may be opened already. workers: processes
    on this machine, None for one a GPU; threads: of each, None for an equal share of the cores;
    scheduler: instead, the address or the scheduler file of a running Dask cluster.
    factory: FAISS's name for the kind of index over the keys, None for the one of their number; weights:
    the fingerprints and precision that the models must have, None for any.
    Raises `CaptionsError`, `ConfigError`, `IndexMismatchError`, `ModelNotFoundError`, `OutputError`,
    `WorkerError`.
    """
    started = time.perf_counter()
    if factory is not None:
        check_factory(factory)
    source = open_captions(captions, config) if isinstance(captions, str) else captions
    digest, total = source.digest()
    target = Place(out)
    target.prepare()
    gpus = usable_gpus(device)
    processes = workers or max(1, len(gpus))
    if scheduler is None:
        threads = threads or max(1, (os.cpu_count() or 1) // processes)
    with alone(target):
        report(Progress(total=total, message="loading models"))
        with (
            connect(processes, scheduler, gpus) as client,
            installed_models(client, config.preset, device, threads) as (name, expected),
        ):
            models = expected.models
            _require_weights(models, weights)
            content = config.content(digest, models)
            build = fingerprint(content)
            if (there := check_target(target, build, content, overwrite)) is not None:
                _require_factory(target, there, factory)
                remove_work(target, build)
                refresh_preset(target, there, config.preset)
                return _already_built(target, there, time.perf_counter() - started)
            for note in (f"Dask dashboard: {client.dashboard_link}", *other_builds(target, build, content)):
                report(Progress(total=total, note=note))
            work = open_work(target, build, content)
            state = read_state(work)
            schedule = ShardSchedule(
                client, work, config, name, expected, lambda: report(_progress(schedule, total))
            )
            reports = schedule.run(cut(source, config.shard_size, state.finished), state)
        report(_progress(schedule, total, "writing the index"))
        origin = Origin(
            preset=config.preset.as_dict(), models=models, build=content, fingerprint=build, seed=config.seed
        )
        manifest = finalize(target, work, reports, origin, factory)
        remove_work(target, build)
        return _summarize(target, manifest, schedule, time.perf_counter() - started)


def _progress(schedule: ShardSchedule, total: int, message: str = "") -> Progress:
    return Progress(
        total=total,
        done=schedule.captions,
        images=schedule.images,
        prototypes=schedule.prototypes,
        rejects=schedule.rejects,
        message=message,
        resumed=schedule.resumed_captions,
        resumed_images=schedule.resumed_images,
        workers=schedule.workers,
    )


def _require_weights(models: Mapping[str, str], expected: Mapping[str, str] | None) -> None:
    if expected is not None and models != dict(expected):
        raise IndexMismatchError(
            f"the models loaded ({models}) are not those that the index was built with "
            f"({dict(expected)}); give the same model files and precision"
        )


def _require_factory(target: Place, there: Manifest, factory: str | None) -> None:
    if factory not in (None, there.factory):
        raise OutputError(
            f"'{target}' holds this very index with its keys as {there.factory}; `freeda index merge "
            f"{target} --factory {factory} --out DIR` writes it with others"
        )


def _already_built(out: Place, manifest: Manifest, elapsed: float) -> BuildSummary:
    rejects = pq.read_table(pa.BufferReader(out.read(REJECTS)), columns=["reason"])
    return BuildSummary(
        out=str(out),
        captions=manifest.captions,
        images=0,
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(Counter(rejects.column(0).to_pylist()).most_common()),
        seconds={},
        elapsed=elapsed,
        already_built=True,
    )


def _summarize(out: Place, manifest: Manifest, schedule: ShardSchedule, elapsed: float) -> BuildSummary:
    rejects: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for name, item in schedule.reports.items():
        rejects.update(item.rejects)
        if name not in schedule.resumed:
            seconds.update(item.seconds)
    return BuildSummary(
        out=str(out),
        captions=manifest.captions,
        images=schedule.images,
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(rejects.most_common()),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        elapsed=elapsed,
        resumed_shards=len(schedule.resumed),
        damaged_shards=schedule.damaged,
    )
