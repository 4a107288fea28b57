"""Where the work runs: a Dask cluster of this machine or one that exists, models loaded once a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin, get_worker

from freeda.errors import WorkerError
from freeda.presets import Preset
from freeda.records import Caption
from index_build.config import BuildConfig
from index_build.shards import ShardReport

__all__ = ["connect", "install_models", "run_shard"]

_START_SECONDS = 180
_SETTINGS = {
    "distributed.scheduler.no-workers-timeout": f"{_START_SECONDS}s",
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "60s",
}
_ATTRIBUTE = "freeda_models"


class _ModelPlugin(WorkerPlugin):
    """Loads the models when a worker starts, and again when it is replaced."""

    name = "freeda-models"

    def __init__(self, preset: Preset, device: str, threads: int) -> None:
        self._preset, self._device, self._threads = preset, device, threads

    def setup(self, worker: Worker) -> None:
        import torch

        from index_build.prototypes import load_models

        if self._threads:
            torch.set_num_threads(self._threads)
        setattr(worker, _ATTRIBUTE, load_models(self._preset, self._device))


@contextmanager
def connect(workers: int, scheduler: str | None) -> Iterator[Client]:
    """A client of `scheduler`, or of a cluster of this machine with `workers` processes."""
    with dask.config.set(_SETTINGS):
        if scheduler is not None:
            with _connected(scheduler) as client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def install_models(client: Client, preset: Preset, device: str, workers: int) -> dict[str, str]:
    """Loads the models on every worker and returns their fingerprints, which must agree."""
    threads = max(1, (os.cpu_count() or 1) // workers) if workers else 0
    client.register_plugin(_ModelPlugin(preset, device, threads))
    found = client.run(_fingerprints)
    first = next(iter(found.values()), None)
    if first is None:
        raise WorkerError("the cluster has no workers; start some and try again")
    for address, fingerprints in found.items():
        if fingerprints != first:
            raise WorkerError(
                f"worker {address} loaded other weights ({fingerprints}) than the first ({first}); "
                f"give all workers the same model files"
            )
    return dict(first)


def run_shard(work: str, shard: int, captions: Sequence[Caption], config: BuildConfig) -> ShardReport:
    """The task: builds one shard on a worker that has the models and reports its counts."""
    from index_build.prototypes import build_prototypes
    from index_build.shards import write_shard

    models = getattr(get_worker(), _ATTRIBUTE)
    outcome = build_prototypes(captions, models, config)
    return write_shard(Path(work), shard, len(captions), outcome)


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise WorkerError(f"no Dask scheduler answers at '{scheduler}': {error}") from error
    with client:
        yield client


def _fingerprints(dask_worker: Worker) -> Any:
    """Runs outside a task, where Dask hands the worker over by this parameter's name."""
    return getattr(dask_worker, _ATTRIBUTE).fingerprints()
