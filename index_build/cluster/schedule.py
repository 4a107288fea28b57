"""Shards through the cluster: a bounded number in flight, finished ones skipped, deadly rows set aside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from itertools import islice
from uuid import uuid4

from distributed import Client, Future, TimeoutError, wait
from distributed.scheduler import KilledWorker

from freeda.errors import FreedaError, WorkerError
from freeda.records import Reject
from index_build.cluster.workers import LOST_SCHEDULER, WorkerDescription, replace_lost, run_shard, tolerated_deaths
from index_build.config import BuildConfig
from index_build.captions.cutting import Shard
from index_build.generation.outcome import ShardOutcome
from index_build.store.shards import ShardReport, WorkState, forget_report, forget_split, mark_split, read_report, take_started, write_shard
from index_build.store.storage import Place

__all__ = ["DEADLY", "FAILED", "ShardSchedule", "is_quarantine"]

DEADLY = "killed its worker"
"""The reason of a row whose process died each time it was tried alone."""
FAILED = "failed in its worker"
"""How the reason begins of a row whose task raised an error each time."""
_IN_FLIGHT_PER_THREAD = 2
_RETRIES = 2
_LEAST_DEATHS = 2
"""One death may be a machine's; a shard is suspected from the second on."""
_QUARANTINE_ALLOWED, _QUARANTINE_SHARE = 10, 0.01
"""Where more rows than these kill their workers or fail, it is not the rows."""
_NEVER_STARTED = 20
_LOOK_AROUND_SECONDS = 5
_UNMANNED_SECONDS = 300
_SLOW_FILES_SECONDS = 90


def is_quarantine(reason: str) -> bool:
    """Whether a row was set aside for what happened to its task; another time it may succeed."""
    return reason == DEADLY or reason.startswith(FAILED)


class ShardSchedule:
    """One run over all shards, with what it has seen so far.

    reports: of finished shards by name, with the sums of their captions, images, prototypes and rejects;
    resumed: names of those of an earlier run; damaged: how many of those had to be built again;
    quarantined: names of shards of one row, set aside because its task dies or fails each time;
    workers: "busy" or "idle" by address.
    """

    def __init__(
        self,
        client: Client,
        work: Place,
        config: BuildConfig,
        models_name: str,
        expected: WorkerDescription,
        tell: Callable[[], None],
    ) -> None:
        self._client, self._work, self._config = client, work, config
        self._models_name, self._expected = models_name, expected
        self._tell = tell
        self._run_id = uuid4().hex[:12]
        self._flying: dict[Future, Shard] = {}
        self._manned = time.monotonic()
        self._deaths: Counter[str] = Counter()
        self._unstarted: Counter[str] = Counter()
        self._submitted: Counter[str] = Counter()
        self._deaths_to_suspect = max(1, _LEAST_DEATHS - tolerated_deaths(client))
        self.reports: dict[str, ShardReport] = {}
        self.resumed: set[str] = set()
        self.captions = self.images = self.prototypes = self.rejects = 0
        self.resumed_captions = self.resumed_images = 0
        self.workers: dict[str, str] = {}
        self.damaged = 0
        self.quarantined: list[str] = []
        self._divided: list[str] = []
        self._last_failure = "in an earlier run"

    def run(self, shards: Iterable[Shard], state: WorkState) -> list[ShardReport]:
        """Builds what is missing; returns the reports of all shards, in the captions' order.

        state: of the work folder; shards that are finished there need no captions.
        Raises `WorkerError`, and whatever a task raises on purpose.
        """
        pending = (part for shard in shards for part in self._unfinished(shard, state))
        self._launch(pending)
        while self._flying:
            for future in self._next_done():
                for shard in self._receive(future):
                    self._submit(shard)
            self._launch(pending)
        if self.quarantined and not self.prototypes:
            self._give_up()
        return [self.reports[name] for name in sorted(self.reports)]

    def _launch(self, pending: Iterator[Shard]) -> None:
        """Fills up to what the cluster's present workers can take; they may come and go."""
        replace_lost(self._client)
        try:
            processing = self._client.processing()
            threads = sum(self._client.nthreads().values())
        except OSError as error:
            raise WorkerError(LOST_SCHEDULER) from error
        changed = processing.keys() != self.workers.keys()
        self.workers = {address: "busy" if keys else "idle" for address, keys in processing.items()}
        if changed:
            self._tell()
        if processing:
            self._manned = time.monotonic()
        elif time.monotonic() - self._manned > _UNMANNED_SECONDS:
            raise WorkerError(
                f"the cluster has had no worker for {_UNMANNED_SECONDS} s; finished shards are kept: start "
                f"workers and run the same command again"
            )
        room = _IN_FLIGHT_PER_THREAD * max(1, threads) - len(self._flying)
        for shard in islice(pending, max(0, room)):
            self._submit(shard)
            self._manned = time.monotonic()  # to find it among finished ones may have taken long

    def _next_done(self) -> list[Future]:
        """Those that have ended; none every few seconds, so that workers who have joined get work."""
        try:
            done, _ = wait(list(self._flying), _LOOK_AROUND_SECONDS, "FIRST_COMPLETED")
        except TimeoutError:
            return []
        except CancelledError as error:
            raise WorkerError(LOST_SCHEDULER) from error
        return list(done)

    def _unfinished(self, shard: Shard, state: WorkState) -> Iterator[Shard]:
        if shard.name in state.split:
            for half in shard.halves():
                yield from self._unfinished(half, state)
        elif (report := state.reports.get(shard.name)) is None:
            self.damaged += shard.name in state.damaged
            yield shard
        else:
            self.resumed.add(shard.name)
            self.resumed_captions += report.captions
            self.resumed_images += report.images
            self.quarantined += [shard.name] if any(map(is_quarantine, report.rejects)) else []
            self._keep(report)

    def _submit(self, shard: Shard) -> None:
        self._submitted[shard.name] += 1
        future = self._client.submit(
            run_shard,
            self._work.url,
            shard,
            self._config,
            self._models_name,
            self._expected,
            self._run_id,
            key=f"{shard.name}/{self._submitted[shard.name]}/{self._run_id}",
            retries=_RETRIES,
            pure=False,
        )
        self._flying[future] = shard

    def _receive(self, future: Future) -> tuple[Shard, ...]:
        """Takes a finished task in; returns what is to be built in its place, if it has failed.

        Its report is read where the shard lies: a result would be lost with the worker that holds it.
        """
        shard = self._flying.pop(future)
        if future.status == "finished":
            self._keep(self._report_of(shard))
            return ()
        if future.status != "error":
            raise WorkerError(LOST_SCHEDULER)
        error = future.exception()
        if isinstance(error, KilledWorker):
            return self._after_death(shard)
        if isinstance(error, FreedaError):
            raise error
        return self._after_error(shard, error)

    def _report_of(self, shard: Shard) -> ShardReport:
        deadline = time.monotonic() + _SLOW_FILES_SECONDS
        while (report := read_report(self._work, shard.name)) is None and time.monotonic() < deadline:
            time.sleep(1)  # a network file system may show another machine's files late
        if report is None:
            raise WorkerError(
                f"{shard.name} is not in '{self._work}', though a worker wrote it; workers on other machines "
                f"need --out where all of them can write: a shared file system or a URL such as s3://"
            )
        return report

    def _after_death(self, shard: Shard) -> tuple[Shard, ...]:
        """A shard that takes its worker with it is halved until the row that does it is alone."""
        if (report := read_report(self._work, shard.name)) is not None:
            self._keep(report)
            return ()
        if not take_started(self._work, shard.name, self._run_id):
            return (self._wait_again(shard),)
        self._unstarted.clear()  # whoever waited beside it died of it
        self._deaths[shard.name] += 1
        if self._deaths[shard.name] < self._deaths_to_suspect:
            return (shard,)
        self._last_failure = "their workers died: out of memory?"
        return self._divide(shard, DEADLY)

    def _after_error(self, shard: Shard, error: BaseException) -> tuple[Shard, ...]:
        """A row that the models' libraries fail on each time is found as a deadly one is."""
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            cure = "run the same command again, with a smaller batch in the preset"
            raise WorkerError(f"{shard.name} failed with {said}; finished shards are kept: {cure}") from error
        if type(error).__module__.startswith("distributed."):
            raise WorkerError(
                f"{shard.name} failed with {said}; finished shards are kept: run the same command again"
            ) from error
        self._last_failure = f"the last failed with {said}"
        return self._divide(shard, f"{FAILED} ({type(error).__name__})")

    def _divide(self, shard: Shard, reason: str) -> tuple[Shard, ...]:
        if len(shard.captions) > 1:
            mark_split(self._work, shard.name)
            self._divided.append(shard.name)
            return shard.halves()
        self._quarantine(shard, reason)
        return ()

    def _wait_again(self, shard: Shard) -> Shard:
        """A shard that was only waiting on a worker that died."""
        self._unstarted[shard.name] += 1
        if self._unstarted[shard.name] > _NEVER_STARTED:
            raise WorkerError(
                "workers die before they begin (out of memory while models load?); finished shards are kept: "
                "run the same command again, with fewer workers"
            )
        return shard

    def _quarantine(self, shard: Shard, reason: str) -> None:
        self.quarantined.append(shard.name)
        if len(self.quarantined) > _QUARANTINE_ALLOWED + _QUARANTINE_SHARE * self.captions:
            self._give_up()
        rejects = [
            Reject(caption_id=item.caption.id, caption=item.caption.text, noun="", reason=reason)
            for item in shard.captions
        ]
        outcome = ShardOutcome(rejects=[*shard.rejects, *rejects])
        self._keep(write_shard(self._work, shard.name, shard.rows, outcome))

    def _give_up(self) -> None:
        """Rows of which so many fail, or all, are not to blame themselves: the next run tries them again, and
        whole shards where no part is finished.
        """
        for name in self.quarantined:
            forget_report(self._work, name)
        finished = self.reports.keys() - set(self.quarantined)
        for name in self._divided:
            if not any(part.startswith(f"{name}-") for part in finished):
                forget_split(self._work, name)
        raise WorkerError(
            f"{len(self.quarantined)} captions failed ({self._last_failure}); finished shards are kept: run "
            f"the same command again, with a smaller batch in the preset if memory was short"
        )

    def _keep(self, report: ShardReport) -> None:
        self.reports[report.name] = report
        self.captions += report.captions
        self.images += report.images
        self.prototypes += report.prototypes
        self.rejects += sum(report.rejects.values())
        self._tell()
