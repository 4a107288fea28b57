"""Finds the captions that their workers die or fail of, and sets them aside.

A shard whose task dies or fails is divided until the caption is alone in a shard; then that caption becomes a
reject.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from freeda.errors import WorkerError
from freeda.records import Reject
from index_build.captions.cutting import Shard
from index_build.cluster.progress import BuildCounts
from index_build.cluster.workers import ShardFailure
from index_build.generation.outcome import ShardOutcome
from index_build.store.shards import (
    WorkState,
    forget_record,
    forget_split,
    mark_split,
    pop_started,
    read_record,
    write_shard,
)
from index_build.store.storage import Folder

__all__ = ["FAILED", "KILLED", "Quarantine", "is_quarantine", "without_quarantined"]

KILLED = "killed its worker"
"""Reason of a caption whose worker died whenever it was tried alone."""
FAILED = "failed in its worker"
"""Prefix of the reason of a caption whose task raised an error whenever it was tried alone."""
_MIN_DEATHS = 2
"""One death may be a machine's; from the second on the shard is suspected."""
_MAX_QUARANTINED, _MAX_QUARANTINED_SHARE = 10, 0.01
"""Where more captions than these kill their workers or fail, the captions are not to blame."""
_MAX_WAITS = 20


def is_quarantine(reason: str) -> bool:
    """Whether a caption was set aside for what happened to its task; another time it may succeed."""
    return reason == KILLED or reason.startswith(FAILED)


def without_quarantined(work: Folder, state: WorkState) -> WorkState:
    """The state without the captions that an earlier run set aside, which are tried again."""
    again = [name for name, record in state.records.items() if any(map(is_quarantine, record.rejects))]
    for name in again:
        forget_record(work, name)
    return replace(state, records={n: record for n, record in state.records.items() if n not in again})


class Quarantine:
    """Decides what happens to shards whose tasks did not finish.

    run: id of this run.
    tolerated: how many deaths of a task's worker Dask tolerates, beyond the first.
    counts: gets the records of shards that are set aside.
    """

    def __init__(self, work: Folder, run: str, tolerated: int, counts: BuildCounts) -> None:
        self._work, self._run, self._counts = work, run, counts
        self._deaths_to_suspect = max(1, _MIN_DEATHS - tolerated)
        self._deaths: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._shards: list[str] = []
        self._divided: list[str] = []
        self._last_failure = "in an earlier run"

    def after_death(self, shard: Shard) -> tuple[Shard, ...]:
        """What is built in place of a shard whose worker died."""
        if (record := read_record(self._work, shard.name)) is not None:
            self._counts.add(record)
            return ()
        if not pop_started(self._work, shard.name, self._run):
            return (self._waited(shard),)
        self._waits.clear()  # the shards that waited there were lost with this one
        self._deaths[shard.name] += 1
        if self._deaths[shard.name] < self._deaths_to_suspect:
            return (shard,)
        self._last_failure = "their workers died; if memory was short, take a smaller batch in the preset"
        return self._divide(shard, KILLED)

    def check_memory(self, shard: Shard, error: ShardFailure) -> None:
        """Raises `WorkerError` where memory was short, which no caption causes."""
        if error.kind in ("MemoryError", "OutOfMemoryError"):
            raise WorkerError(
                f"{shard.name} failed with {error}; finished shards are kept: run the same command again, "
                f"with a smaller batch in the preset"
            ) from error

    def after_error(self, shard: Shard, error: ShardFailure) -> tuple[Shard, ...]:
        """What is built in place of a shard that failed wherever it was tried."""
        self._last_failure = f"the last on worker {error.worker} with {error}"
        return self._divide(shard, f"{FAILED} ({error.kind})")

    def check_end(self) -> None:
        """Raises `WorkerError` where captions were set aside and no other gave a prototype."""
        if self._shards and not self._counts.prototypes:
            self._give_up()

    def _waited(self, shard: Shard) -> Shard:
        """A shard that was only waiting on a worker that died."""
        self._waits[shard.name] += 1
        if self._waits[shard.name] > _MAX_WAITS:
            raise WorkerError(
                "workers die before they begin (out of memory while models load?); finished shards are kept: "
                "run the same command again, with fewer workers"
            )
        return shard

    def _divide(self, shard: Shard, reason: str) -> tuple[Shard, ...]:
        if len(shard.captions) > 1:
            mark_split(self._work, shard.name)
            self._divided.append(shard.name)
            return shard.halves()
        self._set_aside(shard, reason)
        return ()

    def _set_aside(self, shard: Shard, reason: str) -> None:
        self._shards.append(shard.name)
        if len(self._shards) > _MAX_QUARANTINED + _MAX_QUARANTINED_SHARE * self._counts.captions:
            self._give_up()
        rejects = [
            Reject(caption_id=item.caption.id, caption=item.caption.text, noun="", reason=reason)
            for item in shard.captions
        ]
        outcome = ShardOutcome(rejects=[*shard.rejects, *rejects])
        self._counts.add(write_shard(self._work, shard.name, shard.rows, outcome))

    def _give_up(self) -> None:
        """Raises `WorkerError`, and forgets what was set aside: the next run tries those captions again.

        Shards of which no part is finished are built whole again.
        """
        for name in self._shards:
            forget_record(self._work, name)
        finished = self._counts.records.keys() - set(self._shards)
        for name in self._divided:
            if not any(part.startswith(f"{name}-") for part in finished):
                forget_split(self._work, name)
        raise WorkerError(
            f"{len(self._shards)} captions failed ({self._last_failure}); finished shards are kept: run the "
            f"same command again"
        )
