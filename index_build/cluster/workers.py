"""The models on every worker, and the task that builds a shard with them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING

from distributed import Client, Future, Scheduler, TimeoutError, Worker, WorkerPlugin, get_worker, wait
from distributed.scheduler import KilledWorker

from freeda.errors import FreedaError, WorkerError, reason
from freeda.presets import Preset
from index_build.captions.cutting import Shard
from index_build.cluster.connection import LOST_SCHEDULER, WORKERS_MISSING_SECONDS, replace_lost
from index_build.config import BuildConfig
from index_build.store.shards import mark_started, pop_started, read_record, write_shard
from index_build.store.storage import Folder

if TYPE_CHECKING:
    from index_build.generation.prototypes import BuildModels

__all__ = [
    "InstalledModels",
    "ShardFailure",
    "WorkerDescription",
    "installed_models",
    "run_shard",
    "running_workers",
]

_POLL_SECONDS = 5
_COMPARED_PACKAGES = ("freeda", "torch", "diffusers", "transformers", "open_clip_torch", "timm", "textblob")
_PLUGIN = "freeda-models-"
"""Name of a client's plugin, before the client's id."""
_ATTRIBUTE = "freeda_models"
"""Where a worker keeps what it loads: a dict from plugin name to the future of a `_Loaded`."""


@dataclass(frozen=True)
class WorkerDescription:
    """What must be the same on all workers: weight fingerprints with precision, and package versions."""

    models: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class ShardFailure(Exception):
    """An error of the models' libraries, and on which worker it occurred.

    worker: its address. kind: the error's type. message: what it said.
    """

    def __init__(self, worker: str, kind: str, message: str) -> None:
        super().__init__(worker, kind, message)
        self.worker, self.kind, self.message = worker, kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class InstalledModels:
    """Models on the workers. name: by which tasks find them."""

    name: str
    description: WorkerDescription


@dataclass
class _Loaded:
    """The models on a worker, or why there are none.

    turn: a pipeline serves one task at a time, for its scheduler and its captured attention layers have
        state.
    """

    description: WorkerDescription = field(default_factory=WorkerDescription)
    models: BuildModels | None = None
    error: FreedaError | None = None
    turn: Lock = field(default_factory=Lock)


class _ModelPlugin(WorkerPlugin):
    """Loads the models when a worker starts, and again when it is replaced."""

    def __init__(self, name: str, preset: Preset, device: str, threads: int | None) -> None:
        self.name = name
        self._preset, self._device, self._threads = preset, device, threads

    def setup(self, worker: Worker) -> None:
        """Loads in a thread: a scheduler gives up a worker that takes minutes to start."""
        if not hasattr(worker, _ATTRIBUTE):
            setattr(worker, _ATTRIBUTE, {})
        thread = ThreadPoolExecutor(1, "freeda-models")
        getattr(worker, _ATTRIBUTE)[self.name] = thread.submit(self._load)
        thread.shutdown(wait=False)

    def teardown(self, worker: Worker) -> None:
        getattr(worker, _ATTRIBUTE, {}).pop(self.name, None)

    def _load(self) -> _Loaded:
        import torch

        from index_build.generation.prototypes import load_models

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            models = load_models(self._preset, self._device)
        except FreedaError as error:
            return _Loaded(error=error)
        except Exception as error:  # of the model libraries; tasks on this worker raise it
            return _Loaded(error=WorkerError(f"models cannot be loaded: {type(error).__name__}: {error}"))
        return _Loaded(WorkerDescription(models.describe(), _versions()), models)


@contextmanager
def installed_models(
    client: Client, preset: Preset, device: str, threads: int | None
) -> Iterator[InstalledModels]:
    """Loads the models on every worker, and releases them at the end.

    threads: CPU threads per worker; None leaves what the worker was started with.
    Raises `WorkerError` unless all workers have the same models, and the same package versions as this
    process.
    """
    _release_stale(client)
    name = _PLUGIN + client.id
    try:
        client.register_plugin(_ModelPlugin(name, preset, device, threads))
        # Kept to the end: an adaptive cluster retires a worker that neither works nor holds a result.
        loaded = client.submit(_load_models, name, pure=False)
        _wait_for_models(client, loaded)
        found = client.run(_describe, name, on_error="return")
        present = client.nthreads()  # some may have left; those that join are checked by their tasks
        asked = {address: answer for address, answer in found.items() if address in present}
        yield InstalledModels(name, WorkerDescription(_agreed(asked), _versions()))
    finally:
        with suppress(OSError):  # a scheduler that is gone holds no models
            client.unregister_worker_plugin(name)


def _release_stale(client: Client) -> None:
    """Releases the models of clients that were killed: else each would leave a set on every GPU."""

    def stale(dask_scheduler: Scheduler) -> list[str]:
        known = {_PLUGIN + name for name in dask_scheduler.clients}
        names = list(dask_scheduler.worker_plugins)
        return [name for name in names if name.startswith(_PLUGIN) and name not in known]

    for name in client.run_on_scheduler(stale):
        client.unregister_worker_plugin(name)


def _wait_for_models(client: Client, task: Future) -> None:
    """Waits until one worker has its models.

    task: runs `_load_models`, for an adaptive cluster starts workers for tasks only; those of a batch system
        may still be in its queue.
    """
    last_seen = time.monotonic()
    try:
        while not task.done():
            replace_lost(client)
            if running_workers(client):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > WORKERS_MISSING_SECONDS:
                raise WorkerError(
                    f"the cluster has had no worker for {WORKERS_MISSING_SECONDS} s; start some and run the "
                    f"same command again"
                )
            with suppress(TimeoutError):
                wait(task, _POLL_SECONDS)
        failure = task.exception()
    except (CancelledError, OSError) as error:
        raise WorkerError(LOST_SCHEDULER) from error
    if isinstance(failure, KilledWorker):
        raise WorkerError("workers die while they load the models; is there enough memory for them?")


def running_workers(client: Client) -> int:
    """Workers that take tasks now."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(worker["status"] == "running" for worker in workers)


def _load_models(name: str) -> None:
    """Returns once the worker has its models, or an error that says why not."""
    getattr(get_worker(), _ATTRIBUTE)[name].result()


def run_shard(work: str, shard: Shard, config: BuildConfig, models: InstalledModels, run: str) -> None:
    """The task: builds one shard on a worker that has the models. Its record lies with the shard.

    While it generates, a note in the work folder says so: should the worker die, that tells this shard from
    those that were waiting or being written there. A finished shard is not built again, though Dask may run
    a task twice.
    """
    from index_build.generation.prototypes import build_prototypes

    loaded = _loaded(get_worker(), models.name)
    if loaded.models is None or loaded.description != models.description:
        raise WorkerError(
            f"worker {get_worker().address} has {loaded.description}, the build began with "
            f"{models.description}; give all workers the same package versions, model files and devices"
        )
    folder = Folder(work)
    if read_record(folder, shard.name) is not None:
        return
    with loaded.turn:
        mark_started(folder, shard.name, run)
        try:
            outcome = build_prototypes(shard.captions, loaded.models, config)
        except FreedaError:
            raise
        except Exception as error:
            if "CUDA error" in str(error):
                os._exit(1)  # the GPU context is lost, and every further task of this process would fail
            raise ShardFailure(get_worker().address, type(error).__name__, reason(error)) from error
        finally:  # should the worker die from here on, it dies of another shard
            pop_started(folder, shard.name, run)
    outcome.rejects[:0] = shard.rejects
    write_shard(folder, shard.name, shard.rows, outcome)


def _loaded(worker: Worker, name: str) -> _Loaded:
    found = getattr(worker, _ATTRIBUTE, {}).get(name)
    if found is None:
        raise WorkerError(f"worker {worker.address} has released its models; run the same command again")
    loaded: _Loaded = found.result()
    if loaded.error is not None:
        raise loaded.error
    return loaded


async def _describe(name: str, dask_worker: Worker) -> WorkerDescription | FreedaError:
    """Runs outside a task; Dask passes the worker by the parameter's name.

    An error is returned, for Dask would print the traceback of one that is raised.
    """
    loaded: _Loaded = await asyncio.wrap_future(getattr(dask_worker, _ATTRIBUTE)[name])
    return loaded.error or loaded.description


def _agreed(found: Mapping[str, WorkerDescription | Exception]) -> dict[str, str]:
    first: dict[str, str] = {}
    for address, description in found.items():
        if isinstance(description, FreedaError):
            raise description
        if isinstance(description, Exception):
            raise WorkerError(f"worker {address} does not answer: {description}") from description
        _require_versions(address, description.versions)
        first = first or description.models
        if description.models != first:
            raise WorkerError(
                f"worker {address} loaded other models ({description.models}) than the first ({first}); "
                f"give all workers the same model files and devices"
            )
    if not first:
        raise WorkerError("the cluster has lost its workers; start some and run the same command again")
    return first


def _require_versions(address: str, found: Mapping[str, str]) -> None:
    own = _versions()
    different = [
        f"{name} {found.get(name)} (here {own[name]})" for name in own if found.get(name) != own[name]
    ]
    if different:
        raise WorkerError(
            f"worker {address} has {', '.join(different)}; install the same versions on all machines"
        )


def _versions() -> dict[str, str]:
    """Of all packages that decide the prototypes' values."""
    return {"python": ".".join(map(str, sys.version_info[:2]))} | {
        name: version(name) for name in _COMPARED_PACKAGES
    }
