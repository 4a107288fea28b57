"""Clusters for tests of faults, and what is asked of an index that was built beside them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread

import dask
import numpy as np
from distributed import LocalCluster, Worker, WorkerPlugin

import index_build.generation.prototypes
from freeda.index.reader import PrototypeIndex
from index_build import Resources

__all__ = ["AroundBuilding", "assert_same_rows", "cluster", "of", "wait_for", "wait_for_file"]


def assert_same_rows(index: Path, expected: Path) -> None:
    """For clusters whose workers have other numbers of threads: sums then differ in their last bits."""
    one, other = PrototypeIndex.open(index, verify=True), PrototypeIndex.open(expected)
    columns = ["id", "noun", "caption_id", "caption", "seed"]
    assert one.rows(range(len(one)), columns) == other.rows(range(len(other)), columns)
    np.testing.assert_allclose(one.vectors(range(len(one))), other.vectors(range(len(one))), atol=2e-2)
    np.testing.assert_allclose(one.keys_of(range(len(one))), other.keys_of(range(len(one))), atol=1e-4)


@contextmanager
def cluster(workers: int, allowed_failures: int, threads: int = 1) -> Iterator[LocalCluster]:
    settings = {
        "distributed.scheduler.allowed-failures": allowed_failures,
        # Else a worker that is being restarted so long after it died before is taken for lost.
        "distributed.deploy.lost-worker-timeout": "1h",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, memory_limit=0, dashboard_address="127.0.0.1:0"
        ) as started,
    ):
        yield started


def of(started: LocalCluster) -> Resources:
    return Resources(scheduler=started.scheduler_address, device="cpu")


def wait_for(condition, process: subprocess.Popen | Thread, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        running = process.is_alive() if isinstance(process, Thread) else process.poll() is None
        assert running, "the build ended first"
        time.sleep(0.02)


class AroundBuilding(WorkerPlugin):
    """Runs `build` in place of a worker's `build_prototypes`, which it is given."""

    def setup(self, worker: Worker) -> None:
        index_build.generation.prototypes.build_prototypes = partial(
            self.build, index_build.generation.prototypes.build_prototypes
        )


def wait_for_file(path: Path) -> None:
    """Or for a minute; then the test's own assertions tell what lacks."""
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
