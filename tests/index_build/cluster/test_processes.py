"""Faults of whole processes: other versions, failing starts, a killed scheduler, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import dask
import pytest

from freeda.errors import WorkerError
from freeda.index.reader import PrototypeIndex
from index_build import BuildConfig, Resources, build_index
from tests.index_build.cluster.clusters import assert_same_rows, wait_for
from tests.index_build.conftest import OWN, contents

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_worker_with_other_package_versions_is_named(
    config: BuildConfig, captions: Path, tmp_path: Path
) -> None:
    preload = tmp_path / "preload.py"
    preload.write_text(
        "from index_build.cluster import workers\n"
        "workers.version = lambda name, real=workers.version: '0.1' if name == 'timm' else real(name)\n"
    )
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(WorkerError, match=r"worker tcp://\S+ has timm 0.1 \(here .*install the same versions"),
    ):
        build_index(str(captions), tmp_path / "index", config, resources=OWN)
    assert not list(tmp_path.glob("index/.work"))


FAILING_START = """
import os
import signal
from pathlib import Path

import index_build.generation.prototypes


def dask_setup(worker):
    starts = Path(STARTS)
    starts.touch()
    starts.write_text(starts.read_text() + "x")
    if starts.read_text() == "x":
        index_build.generation.prototypes.build_prototypes = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if starts.read_text() == "xx":
        worker._register_with_scheduler = fail


async def fail():
    raise OSError("no scheduler")
"""


def test_a_worker_that_cannot_be_restarted_is_replaced(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path
) -> None:
    preload, starts = tmp_path / "preload.py", tmp_path / "starts"
    preload.write_text(FAILING_START.replace("STARTS", repr(str(starts))))
    as_for_users = {"distributed.worker.multiprocessing-method": "spawn"}
    with dask.config.set({"distributed.worker.preload": [str(preload)], **as_for_users}):
        build_index(str(captions), tmp_path / "index", config, resources=OWN)
    assert starts.read_text() == "xxx"
    assert contents(tmp_path / "index") == contents(undisturbed)


@contextmanager
def dask_processes(folder: Path) -> Iterator[subprocess.Popen]:
    """A scheduler and a worker as a cluster's user starts them; yields the scheduler."""
    file = str(folder / "scheduler.json")
    dask_command = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    scheduler = subprocess.Popen(
        [*dask_command, "scheduler", "--scheduler-file", file, "--port", "0", "--no-dashboard"], **quiet
    )
    worker = subprocess.Popen([*dask_command, "worker", "--scheduler-file", file, "--nthreads", "1"], **quiet)
    try:
        yield scheduler
    finally:
        for process in (scheduler, worker):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_killed_scheduler_ends_the_run_but_not_the_build(
    config: BuildConfig, captions: Path, undisturbed: Path, shared: Resources, tmp_path: Path
) -> None:
    caught: list[BaseException] = []

    def build() -> None:
        try:
            resources = Resources(scheduler=str(tmp_path / "scheduler.json"), device="cpu")
            build_index(str(captions), tmp_path / "index", config, resources=resources)
        except BaseException as error:
            caught.append(error)

    with dask_processes(tmp_path) as scheduler:
        file = tmp_path / "scheduler.json"
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.05)
        thread = Thread(target=build)
        thread.start()
        wait_for(lambda: list(tmp_path.glob("index/.work/*/*.done.json")), thread)
        os.kill(scheduler.pid, signal.SIGKILL)
        thread.join(120)
        assert not thread.is_alive()
    assert isinstance(caught[0], WorkerError)
    assert "connection to the Dask scheduler is lost" in str(caught[0])
    summary = build_index(str(captions), tmp_path / "index", config, resources=shared)
    assert summary.resumed_shards >= 1
    assert_same_rows(tmp_path / "index", undisturbed)


def test_a_full_disk_is_named_and_costs_nothing(
    config: BuildConfig,
    captions: Path,
    undisturbed: Path,
    preset_file: Path,
    shared: Resources,
    tmp_path: Path,
) -> None:
    """The limit on a file's size stands for the disk's: both fail inside a write."""
    command = [sys.executable, "-m", "freeda.cli", "build-index", str(captions), "--out", str(tmp_path / "i")]
    command += ["--preset", str(preset_file), "--shard-size", "1", "--threads", "1", "--device", "cpu"]
    smallest = min(path.stat().st_size for path in undisturbed.iterdir() if path.suffix == ".arrow")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (smallest // 3, resource.RLIM_INFINITY))

    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)  # noqa: PLW1509
    assert failed.returncode == 1
    assert "cannot write" in failed.stderr.splitlines()[-1]
    assert "File too large" in failed.stderr.splitlines()[-1]
    assert not (tmp_path / "i" / "manifest.json").exists()
    done = build_index(str(captions), tmp_path / "i", config, resources=shared)
    assert done.prototypes == len(PrototypeIndex.open(undisturbed))
    assert contents(tmp_path / "i") == contents(undisturbed)
