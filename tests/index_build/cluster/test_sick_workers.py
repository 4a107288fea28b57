"""Workers that fail where others do not, and restarts of workers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from distributed import Client, Future, WorkerPlugin, wait

from index_build import BuildConfig, build_index
from index_build.captions.cutting import Shard
from index_build.cluster.health import Restart, WorkerHealth
from index_build.cluster.quarantine import is_quarantine
from index_build.cluster.schedule import ShardSchedule
from tests.index_build.cluster.clusters import AroundBuilding, assert_same_rows, cluster, of, wait_for_file

pytestmark = pytest.mark.filterwarnings("ignore")


class Sick(AroundBuilding):
    """One worker, the first that builds, raises in its calls after the first few. Others wait until it has
    done so a number of times.
    """

    name = "sick"

    def __init__(self, folder: Path, healthy: int, failures: int) -> None:
        self.folder, self.healthy, self.failures = folder, healthy, failures

    def build(self, original, captions, models, config):
        with suppress(FileExistsError):
            (self.folder / "sick").mkdir()
            self.calls = 0
        if hasattr(self, "calls"):
            self.calls += 1
            if self.calls > self.healthy:
                (self.folder / f"failure-{self.calls - self.healthy}").touch()
                raise ArithmeticError("bits flip here")
        else:
            wait_for_file(self.folder / f"failure-{self.failures}")
        return original(captions, models, config)


def notes_of_a_build(
    workers: int, plugin: WorkerPlugin, captions: Path, out: Path, config: BuildConfig
) -> list[str]:
    notes: list[str] = []
    with cluster(workers, allowed_failures=0) as started, Client(started) as client:
        client.register_plugin(plugin)
        build_index(
            str(captions),
            out,
            config,
            resources=of(started),
            on_progress=lambda progress: notes.append(progress.note) if progress.note else None,
        )
    return notes


@pytest.mark.parametrize("healthy", [1, 0])
def test_a_sick_worker_costs_no_caption_and_is_named(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path, healthy: int
) -> None:
    notes = notes_of_a_build(2, Sick(tmp_path, healthy, failures=2), captions, tmp_path / "index", config)
    assert_same_rows(tmp_path / "index", undisturbed)
    rejects = pq.read_table(tmp_path / "index" / "rejects.parquet").column("reason").to_pylist()
    assert not any(map(is_quarantine, rejects))
    named = [note for note in notes if "failed on 2 shards that others built; it is retired" in note]
    assert len(named) == 1
    assert named[0].startswith("worker tcp://")


def test_the_only_worker_is_started_anew_before_a_caption_is_blamed(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Its process fails from the second call on; a fresh one does not."""
    notes = notes_of_a_build(1, Sick(tmp_path, healthy=1, failures=1), captions, tmp_path / "index", config)
    assert_same_rows(tmp_path / "index", undisturbed)
    assert len([note for note in notes if "bits flip here) and was started anew" in note]) == 1


def test_a_shard_that_ended_just_before_its_worker_was_restarted_is_built(
    config: BuildConfig,
    captions: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are received at once, the failure first: the restart takes the other one's result along."""
    lost: list[str] = []

    def all_at_once(self: ShardSchedule) -> list[Future]:
        done, _ = wait(list(self._in_flight), 300, "ALL_COMPLETED")
        return sorted(done, key=lambda future: future.status != "error")

    def receive(self: ShardSchedule, future: Future) -> tuple[Shard, ...]:
        if future.status not in ("finished", "error"):
            lost.append(future.status)
        return received(self, future)

    received = ShardSchedule._receive
    monkeypatch.setattr(ShardSchedule, "_next_done", all_at_once)
    monkeypatch.setattr(ShardSchedule, "_receive", receive)
    notes_of_a_build(1, Sick(tmp_path, healthy=1, failures=1), captions, tmp_path / "index", config)
    assert lost
    assert_same_rows(tmp_path / "index", undisturbed)


def test_a_worker_that_another_shard_has_restarted_counts_as_ended() -> None:
    """Two shards may fail on one worker before its first restart is known."""
    with cluster(1, allowed_failures=0) as started, Client(started) as client:
        client.wait_for_workers(1, 300)
        (worker,) = client.scheduler_info(n_workers=-1)["workers"]
        health = WorkerHealth(client)
        assert [health.restart(worker), health.restart(worker)] == [Restart.DONE, Restart.GONE]
