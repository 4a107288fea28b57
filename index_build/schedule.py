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
from index_build.cluster import LOST_SCHEDULER, WorkerDescription, replace_lost, run_shard, tolerated_deaths
from index_build.config import BuildConfig
from index_build.cutting import Shard
from index_build.prototypes import ShardOutcome
from index_build.shards import (
    ShardReport,
    WorkState,
    forget_report,
    mark_split,
    read_report,
    read_state,
    take_started,
    write_shard,
)
from index_build.storage import Place

__all__ = ["DEADLY", "ShardSchedule"]

DEADLY = "killed its worker"
"""The reason of a row whose process died each time it was tried alone."""
_IN_FLIGHT_PER_THREAD = 2
_RETRIES = 2
_LEAST_DEATHS = 2
"""One death may be a machine's; a shard is suspected from the second on."""
_DEADLY_ALLOWED, _DEADLY_SHARE = 10, 0.01
"""Where more rows than these kill their workers, it is not the rows."""
_NEVER_STARTED = 20
_LOOK_AROUND_SECONDS = 5
_UNMANNED_SECONDS = 300
_SLOW_FILES_SECONDS = 90


class ShardSchedule:
    """One run over all shards, with what it has seen so far.

    reports: of finished shards by name, with the sums of their captions, images, prototypes and rejects;
    resumed: names of those of an earlier run; damaged: how many of those had to be built again;
    deadly: names of shards of one row, set aside because its process dies of it; workers: "busy" or
    "idle" by address.
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
        self.captions = self.images = self.prototypes = self.rejects = self.resumed_captions = 0
        self.workers: dict[str, str] = {}
        self.damaged = 0
        self.deadly: list[str] = []

    def run(self, shards: Iterable[Shard]) -> list[ShardReport]:
        """Builds what is missing; returns the reports of all shards, in the captions' order.

        Raises `WorkerError`, and whatever a task raises on purpose.
        """
        state = read_state(self._work)
        pending = (part for shard in shards for part in self._unfinished(shard, state))
        self._launch(pending)
        while self._flying:
            for future in self._next_done():
                for shard in self._receive(future):
                    self._submit(shard)
            self._launch(pending)
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
            self.deadly += [shard.name] if DEADLY in report.rejects else []
            self._keep(report)

    def _submit(self, shard: Shard) -> None:
        self._submitted[shard.name] += 1
        future = self._client.submit(
            run_shard,
            self._work.url,
            shard.name,
            shard.captions,
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
        # Whatever went wrong inside a task: what is finished is safe, and that is what to say.
        raise WorkerError(
            f"{shard.name} failed with {type(error).__name__}: {error}; finished shards are kept: run the "
            f"same command again"
        ) from error

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
        if len(shard.captions) > 1:
            mark_split(self._work, shard.name)
            return shard.halves()
        self._set_aside(shard)
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

    def _set_aside(self, shard: Shard) -> None:
        self.deadly.append(shard.name)
        if len(self.deadly) > _DEADLY_ALLOWED + _DEADLY_SHARE * self.captions:
            for name in self.deadly:  # so many are not to blame themselves: the next run tries them again
                forget_report(self._work, name)
            raise WorkerError(
                f"{len(self.deadly)} captions killed their workers (out of memory?); finished shards are "
                f"kept: run the same command again, with a smaller batch in the preset if memory was short"
            )
        caption = shard.captions[0].caption
        reject = Reject(caption_id=caption.id, caption=caption.text, noun="", reason=DEADLY)
        outcome = ShardOutcome(rejects=[reject])
        self._keep(write_shard(self._work, shard.name, 1, outcome))

    def _keep(self, report: ShardReport) -> None:
        self.reports[report.name] = report
        self.captions += report.captions
        self.images += report.images
        self.prototypes += report.prototypes
        self.rejects += sum(report.rejects.values())
        self._tell()
