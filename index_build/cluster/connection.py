"""Where the work runs: an own Dask cluster on this machine, or one that exists."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.core import Status, rpc
from distributed.security import Security

from freeda.errors import WorkerError, reason

__all__ = ["LOST_SCHEDULER", "WORKERS_MISSING_SECONDS", "Resources", "connect", "replace_lost", "usable_gpus"]

LOST_SCHEDULER = (
    "the connection to the Dask scheduler is lost; finished shards are kept: run the same command again"
)
WORKERS_MISSING_SECONDS = 300
"""How long a build waits for a cluster without workers."""
_ANSWER_SECONDS = 20
_LOOPBACK = "127.0.0.1"
_SETTINGS = {
    "distributed.scheduler.no-workers-timeout": f"{WORKERS_MISSING_SECONDS}s",
    "distributed.comm.timeouts.connect": "60s",
    # A task whose worker died comes back at once: whether it is tried again is decided here.
    "distributed.scheduler.allowed-failures": 0,
    # A worker has no more tasks than threads, for all of them are lost when it dies.
    "distributed.scheduler.worker-saturation": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where a build runs, and with what; nothing here changes which prototypes come out.

    workers: processes on this machine; None for one per GPU.
    threads: CPU threads per worker; None for an equal share of the cores.
    scheduler: instead of own workers, the address (`tcp://HOST:PORT`) or the scheduler file of a Dask
        cluster.
    device: "auto", "cpu", "cuda", ...
    index_device: where the client indexes the keys: "cpu", "cuda", or "auto" for a GPU where FAISS sees one.
    models: fingerprints and precision that the models must have; None accepts any.
    """

    workers: int | None = None
    threads: int | None = None
    scheduler: str | None = None
    device: str = "auto"
    index_device: str = "auto"
    models: Mapping[str, str] | None = None

    def gpus(self) -> tuple[str, ...]:
        """Ids of the GPUs that own workers are given."""
        return usable_gpus(self.device)

    def processes(self) -> int:
        """Own workers."""
        return self.workers or max(1, len(self.gpus()))

    def threads_per_worker(self) -> int | None:
        """CPU threads per own worker; workers of a running cluster keep their own number."""
        if self.scheduler is not None:
            return self.threads
        return self.threads or max(1, (os.cpu_count() or 1) // self.processes())


@contextmanager
def connect(resources: Resources) -> Iterator[Client]:
    """A client of a running cluster, or of one on this machine. Raises `WorkerError`."""
    with _quiet_when_interrupted(), dask.config.set(_SETTINGS):
        if resources.scheduler is not None:
            with _connected(resources.scheduler) as client:
                yield client
            return
        gpus = resources.gpus()
        specification = {
            number: {"cls": Nanny, "options": _worker_options(number, gpus)}
            for number in range(resources.processes())
        }
        address = {"host": _LOOPBACK, "port": 0, "dashboard_address": f"{_LOOPBACK}:0"}
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
            f"a worker process ended as it was being started ({error}); is there enough memory for it?"
        ) from error


def replace_lost(client: Client) -> None:
    """Starts new workers in an own cluster for those that Dask has given up.

    It gives up a worker whose restart fails, or that is still being restarted 15 s after it died.
    """
    if isinstance(client.cluster, SpecCluster):
        client.cluster.sync(_replace_lost, client.cluster)


async def _replace_lost(cluster: SpecCluster) -> None:
    for name, nanny in list(cluster.workers.items()):
        if nanny.status in (Status.failed, Status.closed):
            del cluster.workers[name]
    cluster.scale(len(cluster.worker_spec))  # starts those of the specification that are missing


def usable_gpus(device: str) -> tuple[str, ...]:
    """Ids of the GPUs that workers on this machine may use; none for a CPU."""
    import torch

    if device not in ("auto", "cuda"):
        return ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible[:count] or map(str, range(count)))


def _worker_options(number: int, gpus: Sequence[str]) -> dict[str, Any]:
    """One thread per process; two on a GPU, where one writes a shard while the other generates the next.

    Dask does not limit memory: models fill most of it, and a worker paused for that would wait for ever.
    """
    environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
    return {
        "nthreads": 2 if gpus else 1,
        "memory_limit": 0,
        "env": environment,
        "silence_logs": logging.WARNING,
        # A worker runs whatever it is sent: nothing outside of this machine may reach one.
        "host": _LOOPBACK,
        "dashboard_address": f"{_LOOPBACK}:0",
        "preload": ["index_build.cluster.interrupts", *dask.config.get("distributed.worker.preload", [])],
    }


@contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    address = _address(scheduler)
    try:
        asyncio.run(_ask(address))
        client = Client(address, timeout=_ANSWER_SECONDS)
    except TypeError as error:
        raise WorkerError(
            f"'{scheduler}' asks for TLS, but no certificates are configured; set distributed.comm.tls in "
            f"Dask's configuration, on all machines"
        ) from error
    except (OSError, ValueError, RuntimeError, asyncio.TimeoutError) as error:
        raise WorkerError(f"no Dask scheduler answers at '{scheduler}': {reason(error)}") from error
    with client:
        yield client


@contextmanager
def _quiet_when_interrupted() -> Iterator[None]:
    """After Ctrl-C, Dask and tornado would log tracebacks: of the call that it interrupts, from another
    thread, and of each connection that they close.
    """
    level, usual = logging.root.manager.disable, signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(usual):
        yield  # the signal cannot be answered here, or is ignored
        return

    def answer(number: int, frame: FrameType | None) -> None:
        logging.disable(logging.CRITICAL)
        usual(number, frame)

    signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        logging.disable(level)


def _address(scheduler: str) -> str:
    """The address itself, or the one in a scheduler file."""
    if "://" in scheduler or not Path(scheduler).is_file():
        return scheduler
    try:
        address = json.loads(Path(scheduler).read_bytes())["address"]
    except (ValueError, KeyError, TypeError) as error:
        raise WorkerError(
            f"'{scheduler}' is no scheduler file; expected the JSON that `dask scheduler --scheduler-file` "
            "writes"
        ) from error
    return str(address)


async def _ask(address: str) -> None:
    """Raises an error unless a scheduler answers; one that accepts a connection and is silent is no
    scheduler.
    """
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=_ANSWER_SECONDS, connection_args=arguments) as scheduler:
        await asyncio.wait_for(scheduler.identity(), _ANSWER_SECONDS)
