"""The batch job: open the captions, cut them into shards, build these on a cluster, finish the index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from freeda.errors import CaptionsError, IndexMismatchError, OutputError
from freeda.index.format import REJECTS, Manifest, read_rejects
from freeda.index.keys import KeyOptions, check_factory
from freeda.index.placing import require_free
from freeda.index.writer import Origin
from index_build.captions.cutting import cut
from index_build.captions.nouns import NounFinder, tagging_identity
from index_build.captions.reader import CaptionSource, DigestedRows, open_captions
from index_build.captions.taggers import Tagger, open_tagger
from index_build.cluster.connection import Resources, connect
from index_build.cluster.progress import BuildCounts, OnProgress, Progress
from index_build.cluster.quarantine import without_quarantined
from index_build.cluster.schedule import ShardSchedule
from index_build.cluster.workers import InstalledModels, installed_models
from index_build.config import BuildConfig
from index_build.finalize import finish
from index_build.store.folders import BuildFolder, exclusive
from index_build.store.shards import read_state
from index_build.store.storage import Folder

__all__ = ["BuildSummary", "build_index"]


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did.

    captions, images, prototypes, nouns: counts of the finished index.
    rejects: count by reason.
    seconds: by stage, summed over workers, of the shards built in this run.
    elapsed: seconds of this run.
    resumed_shards: from an earlier run.
    damaged_shards: of an earlier run, found incomplete and built again.
    already_built: whether the index was there before.
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


@dataclass(frozen=True)
class _Opened:
    """What a build needs before its models are loaded. digest, total: of all captions."""

    source: CaptionSource
    digest: str
    total: int
    tagger: Tagger
    target: Folder


@dataclass(frozen=True)
class _Finished:
    """An index of this very build that was there before."""

    folder: BuildFolder
    manifest: Manifest


@dataclass(frozen=True)
class _Built:
    """All shards finished, and what the index is made of besides."""

    folder: BuildFolder
    work: Folder
    origin: Origin
    counts: BuildCounts


def build_index(
    captions: str | CaptionSource,
    out: str | Path,
    config: BuildConfig,
    *,
    resources: Resources | None = None,
    factory: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> BuildSummary:
    """Builds an index from a parquet of captions. Called again after an interruption, it resumes.

    captions, out: paths or URLs that fsspec reaches; captions may be opened already.
    resources: where the build runs; None uses all of this machine.
    factory: FAISS's name for the kind of index over the keys; None chooses it by their number.
    overwrite: whether an index of another build may be replaced.
    Raises `CaptionsError`, `ConfigError`, `IndexMismatchError`, `ModelNotFoundError`, `OutputError`,
    `WorkerError`.
    """
    started = time.perf_counter()
    resources = resources or Resources()
    keys = KeyOptions(factory=factory, device=resources.index_device)
    opened = _open(captions, out, config, keys)
    with exclusive(opened.target):
        on_progress(Progress(total=opened.total, message="loading models"))
        built = _build(opened, config, resources, overwrite, on_progress)
        if isinstance(built, _Finished):
            _require_factory(opened.target, built.manifest, factory)
            manifest = built.folder.refresh_preset(built.manifest, config.preset)
            built.folder.remove_work()
            return _already_built(opened.target, manifest, time.perf_counter() - started)
        on_progress(built.counts.progress(opened.total, {}, "writing the index"))
        manifest = finish(built.folder, built.work, built.counts.in_order(), built.origin, keys)
    return _summarise(opened.target, manifest, built.counts, time.perf_counter() - started)


def _open(captions: str | CaptionSource, out: str | Path, config: BuildConfig, keys: KeyOptions) -> _Opened:
    """Checks and reads everything that needs no model."""
    if keys.factory is not None:
        check_factory(keys.factory)
    keys.on_gpu()
    source = open_captions(captions, config) if isinstance(captions, str) else captions
    tagger = open_tagger(config.tagger)
    digest, total = source.digest()
    target = Folder(out)
    target.prepare()
    require_free(target.names(), str(target))
    return _Opened(source, digest, total, tagger, target)


def _build(
    opened: _Opened, config: BuildConfig, resources: Resources, overwrite: bool, on_progress: OnProgress
) -> _Built | _Finished:
    """Builds all shards on a cluster, which is released then; or finds the finished index of this very
    build.
    """
    threads = resources.threads_per_worker()
    with (
        connect(resources) as client,
        installed_models(client, config.preset, resources.device, threads) as installed,
    ):
        models = installed.description.models
        _require_models(models, resources.models)
        content = config.content(opened.digest, models, tagging_identity(opened.tagger))
        folder = BuildFolder(opened.target, content)
        if (there := folder.finished(overwrite=overwrite)) is not None:
            return _Finished(folder, there)
        for note in (f"Dask dashboard: {client.dashboard_link}", *folder.other_builds()):
            on_progress(Progress(total=opened.total, note=note))
        work = folder.open_work()
        rows = DigestedRows(opened.source)
        schedule = _build_shards(client, opened, rows, config, installed, work, on_progress)
    if rows.digest() != (opened.digest, opened.total):
        folder.remove_work()
        raise CaptionsError(
            f"the captions changed while the build ran ({opened.total:,} rows before, {rows.digest()[1]:,} "
            f"now); what was built of them is removed: run the same command again"
        )
    origin = Origin(
        preset=config.preset.shareable().as_dict(),
        models=models,
        build=content,
        build_id=folder.build_id,
        seed=config.seed,
    )
    return _Built(folder, work, origin, schedule.counts)


def _build_shards(
    client: Client,
    opened: _Opened,
    rows: DigestedRows,
    config: BuildConfig,
    models: InstalledModels,
    work: Folder,
    on_progress: OnProgress,
) -> ShardSchedule:
    def tell() -> None:
        on_progress(schedule.counts.progress(opened.total, schedule.workers))

    def note(text: str) -> None:
        on_progress(Progress(total=opened.total, note=text))

    state = without_quarantined(work, read_state(work))
    schedule = ShardSchedule(client, work, config, models, tell, note)
    find_nouns = NounFinder(opened.tagger)
    schedule.run(cut(rows, config.shard_size, find_nouns, state.finished), state)
    return schedule


def _require_models(models: Mapping[str, str], expected: Mapping[str, str] | None) -> None:
    if expected is not None and models != dict(expected):
        raise IndexMismatchError(
            f"the models loaded ({models}) are not those that the index was built with "
            f"({dict(expected)}); give the same model files and precision"
        )


def _require_factory(target: Folder, there: Manifest, factory: str | None) -> None:
    if factory not in (None, there.factory):
        raise OutputError(
            f"'{target}' holds this very index with its keys as {there.factory}; `freeda index merge "
            f"{target} --factory {factory} --out DIR` writes it with others"
        )


def _already_built(out: Folder, manifest: Manifest, elapsed: float) -> BuildSummary:
    reasons = read_rejects(out.read(REJECTS)).column("reason").to_pylist()
    return BuildSummary(
        out=str(out),
        captions=manifest.captions,
        images=0,
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(Counter(reasons).most_common()),
        seconds={},
        elapsed=elapsed,
        already_built=True,
    )


def _summarise(out: Folder, manifest: Manifest, counts: BuildCounts, elapsed: float) -> BuildSummary:
    rejects: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for name, record in counts.records.items():
        rejects.update(record.rejects)
        if name not in counts.resumed:
            seconds.update(record.seconds)
    return BuildSummary(
        out=str(out),
        captions=manifest.captions,
        images=counts.images,
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(rejects.most_common()),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        elapsed=elapsed,
        resumed_shards=len(counts.resumed),
        damaged_shards=counts.damaged,
    )
