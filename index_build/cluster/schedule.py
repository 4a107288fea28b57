"""Shards through the cluster: a bounded number in flight, finished ones skipped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from uuid import uuid4

from distributed import Client, Future, TimeoutError, wait
from distributed.scheduler import KilledWorker

from freeda.errors import FreedaError, WorkerError
from index_build.captions.cutting import Shard
from index_build.cluster.connection import LOST_SCHEDULER, WORKERS_MISSING_SECONDS, replace_lost
from index_build.cluster.health import WorkerHealth
from index_build.cluster.progress import BuildCounts
from index_build.cluster.quarantine import Quarantine
from index_build.cluster.workers import InstalledModels, ShardFailure, run_shard
from index_build.config import BuildConfig
from index_build.store.shards import ShardRecord, WorkState, read_record
from index_build.store.storage import Folder

__all__ = ["ShardSchedule", "ShardTask"]

_IN_FLIGHT_PER_THREAD = 2
_POLL_SECONDS = 5
_SLOW_FILES_SECONDS = 90
"""How long a shard that was written on another machine may take to appear here."""


@dataclass(frozen=True)
class ShardTask:
    """What every task of a build is given besides its shard. run: id of this run."""

    work: Folder
    config: BuildConfig
    models: InstalledModels
    run: str

    def submit(self, client: Client, shard: Shard, attempt: int, workers: Sequence[str]) -> Future:
        """workers: one of which runs it; none for any."""
        return client.submit(
            run_shard,
            self.work.url,
            shard,
            self.config,
            self.models,
            self.run,
            key=f"{shard.name}/{attempt}/{self.run}",
            workers=list(workers) or None,
            pure=False,
        )


class ShardSchedule:
    """One run over all shards.

    counts: of finished shards.
    workers: "busy" or "idle", by address.
    on_change: called whenever counts or workers have changed.
    on_note: called with what a user should know, such as a worker that is retired.
    """

    def __init__(
        self,
        client: Client,
        work: Folder,
        config: BuildConfig,
        models: InstalledModels,
        on_change: Callable[[], None],
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        run = uuid4().hex[:12]
        self.counts = BuildCounts()
        self.workers: dict[str, str] = {}
        self._client, self._on_change = client, on_change
        self._task = ShardTask(work, config, models, run)
        self._health = WorkerHealth(client)
        self._on_note = on_note
        self._quarantine = Quarantine(work, run, _tolerated_deaths(client), self.counts)
        self._in_flight: dict[Future, Shard] = {}
        self._bound: dict[Future, list[str]] = {}
        self._attempts: Counter[str] = Counter()
        self._worker_seen = time.monotonic()

    def run(self, shards: Iterable[Shard], state: WorkState) -> None:
        """Builds what is missing; `counts` then holds the records of all shards.

        state: of the work folder; shards that are finished there need no captions.
        Raises `WorkerError`, and any `FreedaError` of a task.
        """
        pending = (part for shard in shards for part in self._unfinished(shard, state))
        try:
            self._launch(pending)
            while self._in_flight:
                for future in self._next_done():
                    for shard in self._receive(future):
                        self._submit(shard)
                self._launch(pending)
        finally:
            self._withdraw()
        self._quarantine.check_end()

    def _withdraw(self) -> None:
        """Cancels what still waits after an error or Ctrl-C: workers release their models next."""
        if self._in_flight and self._client.status == "running":
            with suppress(OSError):  # a scheduler that is gone runs nothing
                self._client.cancel(list(self._in_flight))

    def _launch(self, pending: Iterator[Shard]) -> None:
        """Submits as many shards as the present workers can take; workers may join and leave."""
        threads = self._look_at_workers()
        room = _IN_FLIGHT_PER_THREAD * max(1, threads) - len(self._in_flight)
        for shard in islice(pending, max(0, room)):
            self._submit(shard)
            self._worker_seen = time.monotonic()  # passing over finished shards may have taken long

    def _look_at_workers(self) -> int:
        """Notes which workers are there and busy; returns how many threads they have together."""
        replace_lost(self._client)
        try:
            processing = self._client.processing()
            threads = sum(self._client.nthreads().values())
        except OSError as error:
            raise WorkerError(LOST_SCHEDULER) from error
        changed = processing.keys() != self.workers.keys()
        self.workers = {address: "busy" if keys else "idle" for address, keys in processing.items()}
        if changed:
            self._release_bound()
            self._on_change()
        if processing:
            self._worker_seen = time.monotonic()
        elif time.monotonic() - self._worker_seen > WORKERS_MISSING_SECONDS:
            raise WorkerError(
                f"the cluster has had no worker for {WORKERS_MISSING_SECONDS} s; finished shards are kept: "
                f"start workers and run the same command again"
            )
        return threads

    def _next_done(self) -> list[Future]:
        """Tasks that have ended; none after a few seconds, so that workers that join get tasks."""
        try:
            done, _ = wait(list(self._in_flight), _POLL_SECONDS, "FIRST_COMPLETED")
        except TimeoutError:
            return []
        except CancelledError as error:
            raise WorkerError(LOST_SCHEDULER) from error
        return list(done)

    def _unfinished(self, shard: Shard, state: WorkState) -> Iterator[Shard]:
        if shard.name in state.split:
            for half in shard.halves():
                yield from self._unfinished(half, state)
        elif (record := state.records.get(shard.name)) is None:
            self.counts.damaged += shard.name in state.damaged
            yield shard
        else:
            self._add(record, resumed=True)

    def _submit(self, shard: Shard) -> None:
        self._attempts[shard.name] += 1
        failed = self._health.failures(shard.name)
        elsewhere = self._health.untried(shard.name, self.workers) if failed else []
        future = self._task.submit(self._client, shard, self._attempts[shard.name], elsewhere)
        self._in_flight[future] = shard
        if elsewhere:
            self._bound[future] = elsewhere

    def _release_bound(self) -> None:
        """Lets shards run anywhere that were to run on workers which have left."""
        for future in [future for future, where in self._bound.items() if not self.workers.keys() & where]:
            shard = self._in_flight.pop(future)
            del self._bound[future]
            future.cancel()
            self._submit(shard)

    def _receive(self, future: Future) -> tuple[Shard, ...]:
        """Counts a finished task; returns what is built in its place, if it did not finish.

        Its record is read where the shard lies: a result would be lost with the worker that holds it.
        """
        if future.status in ("lost", "pending"):
            return ()  # its worker was restarted since; Dask runs it again, and it stays in flight
        shard = self._in_flight.pop(future)
        self._bound.pop(future, None)
        if future.status == "finished":
            self._add(self._record_of(shard))
            for note in self._health.note_success(shard.name):
                self._on_note(note)
            return ()
        if future.status != "error":
            raise WorkerError(LOST_SCHEDULER)
        error = future.exception()
        if isinstance(error, FreedaError):
            raise error
        finished = len(self.counts.records)
        if isinstance(error, KilledWorker):
            instead = self._quarantine.after_death(shard)
        else:
            instead = self._after_error(shard, error)
        if len(self.counts.records) > finished:
            self._on_change()
        return instead

    def _after_error(self, shard: Shard, error: BaseException | None) -> tuple[Shard, ...]:
        """What is built in place of a shard whose task raised an error.

        It is tried on another worker. A row is alone to blame only where it failed on two; where there is one
        worker only, that one is started afresh between.
        """
        if not isinstance(error, ShardFailure):
            raise WorkerError(
                f"{shard.name} failed with {type(error).__name__}: {error}; finished shards are kept: run "
                f"the same command again"
            ) from error
        self._quarantine.check_memory(shard, error)
        self._health.note_failure(shard.name, error.worker)
        if self._health.failures(shard.name) == 1:
            if self._health.untried(shard.name, self.workers):
                return (shard,)
            if len(shard.captions) == 1:
                restart = self._health.restart(error.worker)
                self._on_note(f"worker {error.worker} failed ({error}) and {restart.value}")
                return (shard,)
        return self._quarantine.after_error(shard, error)

    def _record_of(self, shard: Shard) -> ShardRecord:
        work, deadline = self._task.work, time.monotonic() + _SLOW_FILES_SECONDS
        while (record := read_record(work, shard.name)) is None and time.monotonic() < deadline:
            time.sleep(1)  # a network file system may show another machine's files late
        if record is None:
            raise WorkerError(
                f"{shard.name} is not in '{work}', though a worker wrote it; workers on other machines need "
                f"--out where all of them can write: a shared file system or a URL such as s3://"
            )
        return record

    def _add(self, record: ShardRecord, *, resumed: bool = False) -> None:
        self.counts.add(record, resumed=resumed)
        self._on_change()


def _tolerated_deaths(client: Client) -> int:
    """How many deaths of a task's worker Dask tolerates, beyond the first, before it gives the task up."""
    return int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures))
