"""The batch job: plans shards, keeps a bounded number in flight, resumes, finishes the index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
from distributed import Client, as_completed
from distributed.scheduler import KilledWorker

from freeda.errors import FreedaError, OutputError, WorkerError
from freeda.index import REJECTS, Manifest
from freeda.records import Caption, Reject
from index_build.captions import CaptionSource, open_captions
from index_build.cluster import connect, installed_models, run_shard
from index_build.config import BuildConfig
from index_build.finalize import Origin, finalize
from index_build.folders import check_target, prepare_folder, remove_work
from index_build.shards import ShardReport, read_report, shard_path

__all__ = ["BuildSummary", "Progress", "build_index"]

_IN_FLIGHT_PER_WORKER = 2
_RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a build did. `seconds` by stage, summed over workers, for the shards built in this run."""

    out: Path
    captions: int
    images: int
    prototypes: int
    nouns: int
    rejects: dict[str, int]
    seconds: dict[str, float]
    elapsed: float
    resumed_shards: int
    already_built: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build is, in captions; `message` names the stage."""

    done: int
    total: int
    prototypes: int
    rejects: int
    message: str = ""
    resumed: int = 0


Report = Callable[[Progress], None]


def build_index(
    captions: str,
    out: str | Path,
    config: BuildConfig,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    report: Report = lambda progress: None,
) -> BuildSummary:
    """Builds an index from a parquet of captions; called again after an interruption, it goes on.

    Raises `CaptionsError`, `ModelNotFoundError`, `OutputError`, `WorkerError`.
    """
    started = time.perf_counter()
    source = open_captions(captions, config)
    digest, total = source.digest()
    folder = prepare_folder(Path(out).resolve())
    report(Progress(done=0, total=total, prototypes=0, rejects=0, message="loading models"))
    with (
        connect(workers, scheduler) as client,
        installed_models(client, config.preset, device, 0 if scheduler else workers) as (name, models),
    ):
        fingerprint = config.fingerprint(digest, models)
        if (there := check_target(folder, fingerprint, overwrite)) is not None:
            if (folder / ".work" / fingerprint).exists():
                remove_work(folder / ".work" / fingerprint)
            return _already_built(folder, there, time.perf_counter() - started)
        work = folder / ".work" / fingerprint
        work.mkdir(parents=True, exist_ok=True)
        run = _Run(client, source, work, config, total, report, name, models)
        reports, early = run.all_shards()
    report(run.progress("writing the index"))
    _require_shards(work, reports)
    origin = Origin(
        preset=config.preset,
        models=models,
        build=config.as_dict(),
        fingerprint=fingerprint,
        seed=config.seed,
    )
    try:
        manifest = finalize(folder, work, reports, early, origin)
    except OSError as error:
        raise OutputError(f"cannot write the index to '{folder}': {error.strerror or error}") from error
    remove_work(work)
    return _summarize(folder, manifest, reports, early, run, time.perf_counter() - started)


class _Run:
    """One pass over the captions with what it has seen so far."""

    def __init__(
        self,
        client: Client,
        source: CaptionSource,
        work: Path,
        config: BuildConfig,
        total: int,
        report: Report,
        models_name: str,
        models: Mapping[str, str],
    ) -> None:
        self._client, self._source, self._work, self._config = client, source, work, config
        self._total, self._report = total, report
        self._models_name, self._models = models_name, models
        self._id = uuid4().hex[:12]
        self.early: list[Reject] = []
        self.reports: dict[int, ShardReport] = {}
        self.resumed: set[int] = set()

    def all_shards(self) -> tuple[list[ShardReport], list[Reject]]:
        """Builds what is missing and returns all reports in order, and the rows that were no captions."""
        pending = self._missing_shards()
        flying = as_completed()
        width = _IN_FLIGHT_PER_WORKER * max(1, len(self._client.scheduler_info()["workers"]))
        for shard, captions in _take(pending, width):
            flying.add(self._submit(shard, captions))
        for future in flying:
            self._receive(future)
            for shard, captions in _take(pending, 1):
                flying.add(self._submit(shard, captions))
        return [self.reports[shard] for shard in sorted(self.reports)], self.early

    def progress(self, message: str = "") -> Progress:
        return Progress(
            done=len(self.early) + sum(item.captions for item in self.reports.values()),
            total=self._total,
            prototypes=sum(item.prototypes for item in self.reports.values()),
            rejects=len(self.early) + sum(sum(item.rejects.values()) for item in self.reports.values()),
            message=message,
            resumed=sum(self.reports[shard].captions for shard in self.resumed),
        )

    def _missing_shards(self) -> Iterator[tuple[int, list[Caption]]]:
        numbers = count()
        for captions in self._shards():
            shard = next(numbers)
            finished = read_report(self._work, shard)
            if finished is None:
                yield shard, captions
            else:
                self.reports[shard] = finished
                self.resumed.add(shard)
                self._report(self.progress())

    def _shards(self) -> Iterator[list[Caption]]:
        shard: list[Caption] = []
        for item in self._source:
            if isinstance(item, Reject):
                self.early.append(item)
                continue
            shard.append(item)
            if len(shard) == self._config.shard_size:
                yield shard
                shard = []
        if shard:
            yield shard

    def _submit(self, shard: int, captions: list[Caption]):  # type: ignore[no-untyped-def]
        return self._client.submit(
            run_shard,
            str(self._work),
            shard,
            captions,
            self._config,
            self._models_name,
            self._models,
            key=f"shard-{shard}-{self._id}",
            retries=_RETRIES,
            pure=False,
        )

    def _receive(self, future) -> None:  # type: ignore[no-untyped-def]
        try:
            finished = future.result()
        except KilledWorker as error:
            raise WorkerError(
                f"{future.key} killed every worker it ran on (out of memory?); finished shards are kept: "
                f"run the same command again, with a smaller batch in the preset if memory was short"
            ) from error
        except FreedaError:
            raise
        except Exception as error:
            # Whatever went wrong inside a task: what is finished is safe, and that is what to say.
            raise WorkerError(
                f"{future.key} failed with {type(error).__name__}: {error}; finished shards are kept: "
                f"run the same command again"
            ) from error
        self.reports[finished.shard] = finished
        self._report(self.progress())


def _take(items: Iterator[tuple[int, list[Caption]]], number: int) -> Iterator[tuple[int, list[Caption]]]:
    for _ in range(number):
        item = next(items, None)
        if item is None:
            return
        yield item


def _require_shards(work: Path, reports: Sequence[ShardReport]) -> None:
    missing = [item.shard for item in reports if not shard_path(work, item.shard).exists()]
    if missing:
        raise WorkerError(
            f"{len(missing)} shards are not in '{work}', though workers wrote them; workers on other "
            f"machines need --out on a file system that all of them share"
        )


def _already_built(out: Path, manifest: Manifest, elapsed: float) -> BuildSummary:
    reasons = Counter(pq.read_table(out / REJECTS).column("reason").to_pylist())
    return BuildSummary(
        out=out,
        captions=manifest.captions,
        images=0,
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(reasons.most_common()),
        seconds={},
        elapsed=elapsed,
        resumed_shards=0,
        already_built=True,
    )


def _summarize(
    out: Path, manifest: Manifest, reports: list[ShardReport], early: list[Reject], run: _Run, elapsed: float
) -> BuildSummary:
    rejects = Counter(reject.reason for reject in early)
    seconds: Counter[str] = Counter()
    for item in reports:
        rejects.update(item.rejects)
        if item.shard not in run.resumed:
            seconds.update(item.seconds)
    return BuildSummary(
        out=out,
        captions=manifest.captions,
        images=sum(item.images for item in reports),
        prototypes=manifest.prototypes,
        nouns=manifest.nouns,
        rejects=dict(rejects.most_common()),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        elapsed=elapsed,
        resumed_shards=len(run.resumed),
    )
