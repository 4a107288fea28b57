"""Where the work runs: a Dask cluster of this machine or one that exists, models loaded once a worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin, get_worker

from freeda.config import Preset
from freeda.errors import FreedaError, WorkerError
from freeda.records import Caption
from index_build.config import BuildConfig
from index_build.shards import ShardReport

if TYPE_CHECKING:
    from index_build.prototypes import BuildModels

__all__ = ["connect", "installed_models", "run_shard"]

_START_SECONDS = 180
_SETTINGS = {
    "distributed.scheduler.no-workers-timeout": f"{_START_SECONDS}s",
    "distributed.comm.timeouts.connect": "60s",
}
_ATTRIBUTE = "freeda_models"
"""Where a worker keeps what it has loaded: a dict by plugin name."""


@dataclass
class _Loaded:
    """The models on a worker, or why there are none. A pipeline serves one task at a time: its
    scheduler and its captured attention layers have state, so threads take turns.
    """

    description: dict[str, str] = field(default_factory=dict)
    models: BuildModels | None = None
    error: FreedaError | None = None
    turn: Lock = field(default_factory=Lock)


class _ModelPlugin(WorkerPlugin):
    """Loads the models when a worker starts, and again when it is replaced."""

    def __init__(self, name: str, preset: Preset, device: str, threads: int) -> None:
        self.name = name
        self._preset, self._device, self._threads = preset, device, threads

    async def setup(self, worker: Worker) -> None:
        """In a thread, so that the worker answers its scheduler while weights are downloaded."""
        if not hasattr(worker, _ATTRIBUTE):
            setattr(worker, _ATTRIBUTE, {})
        getattr(worker, _ATTRIBUTE)[self.name] = await asyncio.to_thread(self._load)

    def teardown(self, worker: Worker) -> None:
        getattr(worker, _ATTRIBUTE, {}).pop(self.name, None)

    def _load(self) -> _Loaded:
        import torch

        from index_build.prototypes import load_models

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            models = load_models(self._preset, self._device)
        except FreedaError as error:
            return _Loaded(error=error)
        return _Loaded(models.describe(), models)


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
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # models fill most of it; a worker paused for that would wait for ever
                dashboard_address=None,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@contextmanager
def installed_models(
    client: Client, preset: Preset, device: str, workers: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """Loads the models on every worker and, at the end, lets them go.

    Yields the name they are found by, and their description (weight fingerprints and precision),
    which must agree on all workers. workers: processes of this machine's own cluster, 0 for another.
    """
    threads = max(1, (os.cpu_count() or 1) // workers) if workers else 0
    name = f"freeda-models-{uuid4().hex[:12]}"
    client.register_plugin(_ModelPlugin(name, preset, device, threads))
    try:
        yield name, _agreed(client.run(_describe, name))
    finally:
        client.unregister_worker_plugin(name)


def run_shard(
    work: str,
    shard: int,
    captions: Sequence[Caption],
    config: BuildConfig,
    models_name: str,
    description: Mapping[str, str],
) -> ShardReport:
    """The task: builds one shard on a worker that has the models and reports its counts."""
    from index_build.prototypes import build_prototypes
    from index_build.shards import write_shard

    loaded = _loaded(get_worker(), models_name)
    if loaded.models is None or loaded.description != description:
        raise WorkerError(
            f"worker {get_worker().address} loaded other models ({loaded.description}) than the build "
            f"began with ({dict(description)}); give all workers the same model files and devices"
        )
    with loaded.turn:
        outcome = build_prototypes(captions, loaded.models, config)
    return write_shard(Path(work), shard, len(captions), outcome)


def _loaded(worker: Worker, name: str) -> _Loaded:
    loaded: _Loaded = getattr(worker, _ATTRIBUTE)[name]
    if loaded.error is not None:
        raise loaded.error
    return loaded


def _describe(name: str, dask_worker: Worker) -> dict[str, str] | FreedaError:
    """Runs outside a task, where Dask hands the worker over by this parameter's name.

    An error is returned: Dask would print the traceback of one that is raised.
    """
    loaded: _Loaded = getattr(dask_worker, _ATTRIBUTE)[name]
    return loaded.error or loaded.description


def _agreed(found: Mapping[str, dict[str, str] | FreedaError]) -> dict[str, str]:
    first = next(iter(found.values()), None)
    if first is None:
        raise WorkerError("the cluster has no workers; start some and try again")
    for address, description in found.items():
        if isinstance(description, FreedaError):
            raise description
        if description != first:
            raise WorkerError(
                f"worker {address} loaded other models ({description}) than the first ({first}); "
                f"give all workers the same model files and devices"
            )
    assert not isinstance(first, FreedaError)  # the loop has raised it
    return dict(first)


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise WorkerError(f"no Dask scheduler answers at '{scheduler}': {error}") from error
    with client:
        yield client
