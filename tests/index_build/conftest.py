"""One build that nothing disturbed, to compare others with, and workers that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import dask
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from freeda.index.format import FILES, MANIFEST
from freeda.presets import Preset, load_preset
from freeda.presets.toml import to_toml
from index_build import BuildConfig, BuildSummary, Resources, build_index
from tests.conftest import CAPTIONS

PRELOADED = ["distributed", "index_build.cluster.workers", "index_build.generation.prototypes"]
OWN = Resources(workers=1, threads=1, device="cpu")
"""A worker of the build's own, for tests of what happens to one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all of these tests: they share a cluster and a build."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("index_build"))


@pytest.fixture(scope="session", autouse=True)
def forked_workers() -> Iterator[None]:
    """Workers are forked from a process that has imported the model libraries, so that they start at once.

    Builds by the command line start theirs as they do for users.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (MANIFEST, *FILES)}


def write_captions(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"id": [f"c{n}" for n in range(len(texts))], "caption": texts}), path)
    return path


@pytest.fixture(scope="session")
def preset_file(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "tiny.toml"
    path.write_text(to_toml(tiny_preset))
    return path


@pytest.fixture(scope="session")
def config(preset_file: Path) -> BuildConfig:
    """Through a file, as the command reads it: all these builds have one id."""
    return BuildConfig(preset=load_preset(str(preset_file)), shard_size=1)


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captions(tmp_path_factory.mktemp("captions") / "captions.parquet", CAPTIONS)


@pytest.fixture(scope="session")
def shared() -> Iterator[Resources]:
    """A cluster of one worker, for tests of what a build gives and not of how."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield Resources(scheduler=cluster.scheduler_address, threads=1, device="cpu")


@pytest.fixture(scope="session")
def summary(
    config: BuildConfig, captions: Path, shared: Resources, tmp_path_factory: pytest.TempPathFactory
) -> BuildSummary:
    """Of a build of all test captions that nothing disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "index"
    return build_index(str(captions), out, config, resources=shared)


@pytest.fixture(scope="session")
def undisturbed(summary: BuildSummary) -> Path:
    return Path(summary.out)
