"""Where the work runs: a Dask cluster of this machine or one that exists, models loaded once a worker."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import dask
from distributed import (
    Client,
    Nanny,
    Scheduler,
    SpecCluster,
    TimeoutError,
    Worker,
    WorkerPlugin,
    get_worker,
    wait,
)
from distributed.core import Status
from distributed.scheduler import KilledWorker

from freeda.presets.settings import Preset
from freeda.errors import FreedaError, WorkerError
from index_build.config import BuildConfig
from index_build.captions.cutting import Shard
from index_build.store.shards import mark_started, read_report, take_started, write_shard
from index_build.store.storage import Place

if TYPE_CHECKING:
    from index_build.generation.prototypes import BuildModels

__all__ = [
    "LOST_SCHEDULER",
    "WorkerDescription",
    "connect",
    "installed_models",
    "replace_lost",
    "run_shard",
    "tolerated_deaths",
    "usable_gpus",
]

LOST_SCHEDULER = (
    "the connection to the Dask scheduler is lost; finished shards are kept: run the same command again"
)
_START_SECONDS = 300
_ANSWER_SECONDS = 20
_LOOK_AROUND_SECONDS = 5
_SETTINGS = {
    "distributed.scheduler.no-workers-timeout": f"{_START_SECONDS}s",
    "distributed.comm.timeouts.connect": "60s",
    # A task that took its worker with it comes back at once: whether it is tried again is decided here.
    "distributed.scheduler.allowed-failures": 0,
    # No more tasks on a worker than it has threads: the others would share that worker's fate.
    "distributed.scheduler.worker-saturation": 1.0,
}
_COMPARED_PACKAGES = ("freeda", "torch", "diffusers", "transformers", "open_clip_torch", "timm", "textblob")
_PLUGIN = "freeda-models-"
"""With the client's id, the name of its plugin."""
_ATTRIBUTE = "freeda_models"
"""Where a worker keeps what it loads: a dict from plugin name to the future of a `_Loaded`."""


@dataclass(frozen=True)
class WorkerDescription:
    """What must agree on all workers: weight fingerprints with precision, and package versions."""

    models: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class _Loaded:
    """The models on a worker, or why there are none. A pipeline serves one task at a time: its
    scheduler and its captured attention layers have state, so threads take turns.
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
        """Only begins with it: a worker that takes minutes to start is given up by its scheduler."""
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
        except Exception as error:  # of the model libraries; whoever asks this worker is told
            return _Loaded(error=WorkerError(f"models cannot be loaded: {type(error).__name__}: {error}"))
        return _Loaded(WorkerDescription(models.describe(), _versions()), models)


@contextmanager
def connect(workers: int, scheduler: str | None, gpus: Sequence[str] = ()) -> Iterator[Client]:
    """A client of a running cluster, or of one of this machine with `workers` processes.

    scheduler: an address (`tcp://HOST:PORT`) or a scheduler file; gpus: ids as CUDA_VISIBLE_DEVICES
    holds them, dealt out to the processes in turn. Raises `WorkerError`.
    """
    with dask.config.set(_SETTINGS):
        if scheduler is not None:
            with _connected(scheduler) as client:
                yield client
            return
        specification = {
            number: {"cls": Nanny, "options": _worker_options(number, gpus)} for number in range(workers)
        }
        address = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
        with (
            _started(specification, {"cls": Scheduler, "options": address}) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _started(workers: dict[int, Any], scheduler: dict[str, Any]) -> SpecCluster:
    try:
        return SpecCluster(workers, scheduler, silence_logs=logging.WARNING)
    except RuntimeError as error:
        raise WorkerError(
            f"a worker process ended as it was being started ({error}); is there memory enough for it?"
        ) from error


def replace_lost(client: Client) -> None:
    """Starts others for the workers of our own cluster that are gone for good: Dask gives one up whose
    restart fails, and one that is being restarted 15 s after it died before.
    """
    if isinstance(client.cluster, SpecCluster):
        client.cluster.sync(_replace_lost, client.cluster)


async def _replace_lost(cluster: SpecCluster) -> None:
    for name, nanny in list(cluster.workers.items()):
        if nanny.status in (Status.failed, Status.closed):
            del cluster.workers[name]
    cluster.scale(len(cluster.worker_spec))  # opens those of the specification that are not there


def usable_gpus(device: str) -> tuple[str, ...]:
    """The GPUs that workers of this machine may be given, by their ids; none for a CPU."""
    import torch

    if device not in ("auto", "cuda"):
        return ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible[:count] or map(str, range(count)))


def _worker_options(number: int, gpus: Sequence[str]) -> dict[str, Any]:
    """A process of one thread, or on a GPU of two, one of which writes a shard while the other generates
    the next. Memory is not watched, for models fill most of it, and a worker paused for that would wait
    for ever.
    """
    environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
    return {
        "nthreads": 2 if gpus else 1,
        "memory_limit": 0,
        "env": environment,
        "silence_logs": logging.WARNING,
    }


def tolerated_deaths(client: Client) -> int:
    """How many workers a task may take with it before Dask gives it up, beyond the first."""
    return int(client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures))


@contextmanager
def installed_models(
    client: Client, preset: Preset, device: str, threads: int | None
) -> Iterator[tuple[str, WorkerDescription]]:
    """Loads the models on every worker and, at the end, lets them go.

    Yields the name they are found by, and their description.
    Raises `WorkerError` unless that agrees on all workers, and package versions with those here.
    threads: of each process, None to leave them as the worker was started.
    """
    _release_stale(client)
    name = _PLUGIN + client.id
    try:
        client.register_plugin(_ModelPlugin(name, preset, device, threads))
        _wait_for_models(client, name)
        found = client.run(_describe, name, on_error="return")
        present = client.nthreads()  # some may have left meanwhile; those that come are asked by their tasks
        asked = {address: answer for address, answer in found.items() if address in present}
        yield name, WorkerDescription(_agreed(asked), _versions())
    finally:
        with suppress(OSError):  # a scheduler that is gone holds no models
            client.unregister_worker_plugin(name)


def _release_stale(client: Client) -> None:
    """Lets go the models of clients that were killed: else each would leave a set on every GPU."""

    def stale(dask_scheduler: Scheduler) -> list[str]:
        known = {_PLUGIN + name for name in dask_scheduler.clients}
        names = list(dask_scheduler.worker_plugins)
        return [name for name in names if name.startswith(_PLUGIN) and name not in known]

    for name in client.run_on_scheduler(stale):
        client.unregister_worker_plugin(name)


def _wait_for_models(client: Client, name: str) -> None:
    """Until a first worker has its models. Those of a batch system may still be in its queue, and an
    adaptive cluster starts some only for a task, so this is one.
    """
    task = client.submit(_load_models, name, pure=False)
    manned = time.monotonic()
    try:
        while not task.done():
            replace_lost(client)
            if _running_workers(client):
                manned = time.monotonic()
            elif time.monotonic() - manned > _START_SECONDS:
                raise WorkerError(
                    f"the cluster has had no worker for {_START_SECONDS} s; start some and run the same "
                    f"command again"
                )
            with suppress(TimeoutError):
                wait(task, _LOOK_AROUND_SECONDS)
        failure = task.exception()
    except (CancelledError, OSError) as error:
        raise WorkerError(LOST_SCHEDULER) from error
    if isinstance(failure, KilledWorker):
        raise WorkerError("workers die while they load the models; is there memory enough for them?")


def _running_workers(client: Client) -> int:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(worker["status"] == "running" for worker in workers)


def _load_models(name: str) -> None:
    """Keeps a worker busy until its models are there or an error says why not."""
    getattr(get_worker(), _ATTRIBUTE)[name].result()


def run_shard(
    work: str,
    shard: Shard,
    config: BuildConfig,
    models_name: str,
    expected: WorkerDescription,
    run: str,
) -> None:
    """The task: builds one shard on a worker that has the models. Its report lies with the shard.

    While it generates a mark in the work folder says so: should its worker die, that tells it from the
    tasks that were waiting there or being written. What is finished is not built again, though Dask may run
    a task twice.
    """
    from index_build.generation.prototypes import build_prototypes

    loaded = _loaded(get_worker(), models_name)
    if loaded.models is None or loaded.description != expected:
        raise WorkerError(
            f"worker {get_worker().address} has {loaded.description}, the build began with {expected}; give "
            f"all workers the same package versions, model files and devices"
        )
    place = Place(work)
    if read_report(place, shard.name) is not None:
        return
    with loaded.turn:
        mark_started(place, shard.name, run)
        try:
            outcome = build_prototypes(shard.captions, loaded.models, config)
        except RuntimeError as error:
            if "CUDA error" in str(error):
                os._exit(1)  # this process's GPU context is lost, and so would be all that it tried next
            raise
        finally:  # should its worker die while this one is written, it was another
            take_started(place, shard.name, run)
    outcome.rejects[:0] = shard.rejects
    write_shard(place, shard.name, shard.rows, outcome)


def _loaded(worker: Worker, name: str) -> _Loaded:
    found = getattr(worker, _ATTRIBUTE, {}).get(name)
    if found is None:
        raise WorkerError(f"worker {worker.address} has let its models go; run the same command again")
    loaded: _Loaded = found.result()
    if loaded.error is not None:
        raise loaded.error
    return loaded


async def _describe(name: str, dask_worker: Worker) -> WorkerDescription | FreedaError:
    """Runs outside a task, where Dask hands the worker over by this parameter's name.

    An error is returned: Dask would print the traceback of one that is raised.
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
    """Of what decides the prototypes' values."""
    return {"python": ".".join(map(str, sys.version_info[:2]))} | {
        name: version(name) for name in _COMPARED_PACKAGES
    }


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        if "://" not in scheduler and Path(scheduler).is_file():
            client = Client(scheduler_file=scheduler, timeout=_ANSWER_SECONDS)
        else:
            client = Client(scheduler, timeout=_ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise WorkerError(f"no Dask scheduler answers at '{scheduler}': {error}") from error
    with client:
        yield client
