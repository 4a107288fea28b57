"""Which workers fail where others do not: they are replaced, and captions are not blamed for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from enum import Enum

from distributed import Client, SpecCluster

__all__ = ["Restart", "WorkerHealth"]

_STRIKES = 2
"""Shards that failed on a worker and were then built elsewhere, until it is retired."""
_RESTART_SECONDS = 120


class Restart(Enum):
    """What became of a worker that was to start afresh, for a sentence of which it is the subject."""

    DONE = "was started anew"
    GONE = "has ended since"
    IMPOSSIBLE = "cannot be started anew"


class WorkerHealth:
    """Remembers where shards failed, and retires workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._failed_on: dict[str, list[str]] = {}
        self._strikes: Counter[str] = Counter()
        self._retired: Counter[str] = Counter()

    def note_failure(self, shard: str, worker: str) -> None:
        self._failed_on.setdefault(shard, []).append(worker)

    def failures(self, shard: str) -> int:
        """How often a shard has failed. A worker that was started afresh may have the same address."""
        return len(self._failed_on.get(shard, ()))

    def untried(self, shard: str, workers: Collection[str]) -> list[str]:
        """The workers on which a shard has not failed yet."""
        return sorted(set(workers).difference(self._failed_on.get(shard, ())))

    def note_success(self, shard: str) -> list[str]:
        """Remembers that a shard was built; returns a note per worker that is retired for having failed."""
        notes = []
        for worker in set(self._failed_on.pop(shard, ())):
            self._strikes[worker] += 1
            if self._strikes[worker] == _STRIKES:
                notes.append(self._retire(worker))
        return notes

    def restart(self, worker: str) -> Restart:
        """Starts the process of a worker afresh, where a nanny watches over it."""
        try:
            found = self._client.restart_workers([worker], timeout=_RESTART_SECONDS, raise_for_error=False)
        except ValueError:  # it has no nanny
            return Restart.IMPOSSIBLE
        except KeyError:  # the scheduler no longer knows its address
            return Restart.GONE
        return Restart.DONE if found[worker] == "OK" else Restart.IMPOSSIBLE

    def _retire(self, worker: str) -> str:
        """Ends a worker. One of an own cluster is started once more, and left out if it fails again."""
        listed = self._client.scheduler_info(n_workers=-1)["workers"]
        name = listed.get(worker, {}).get("name")
        again = self._is_own(name)
        with suppress(OSError):  # it may have gone already
            self._client.retire_workers([worker], close_workers=True, remove=True)
        self._retired[str(name)] += 1
        failed = f"worker {worker} failed on {_STRIKES} shards that others built"
        if not again:
            return f"{failed}; it is retired"
        if self._retired[str(name)] > 1:
            self._forget(name)
            return f"{failed}, as it did before it was started anew; it is retired"
        return f"{failed}; it is started anew"

    def _is_own(self, name: object) -> bool:
        cluster = self._client.cluster
        return isinstance(cluster, SpecCluster) and name in cluster.worker_spec

    def _forget(self, name: object) -> None:
        cluster = self._client.cluster
        assert isinstance(cluster, SpecCluster)
        if len(cluster.worker_spec) > 1:
            del cluster.worker_spec[name]
