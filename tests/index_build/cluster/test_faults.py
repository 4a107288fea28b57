"""Real kills of workers and their captions: each build ends as one that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

from freeda.errors import WorkerError
from freeda.index.reader import PrototypeIndex
from index_build import BuildConfig, Resources, build_index
from index_build.append import append
from index_build.cluster.progress import Progress
from index_build.cluster.quarantine import FAILED, KILLED, is_quarantine
from index_build.config import CaptionColumns
from tests.conftest import CAPTIONS
from tests.index_build.cluster.clusters import (
    AroundBuilding,
    assert_same_rows,
    cluster,
    of,
    wait_for,
    wait_for_file,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_worker_killed_in_turn_in_the_middle_of_a_shard(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with cluster(2, allowed_failures=3) as started, Client(started) as client:
        victims = set(client.run(os.getpid).values())
        arguments = (str(captions), tmp_path / "index", config)
        build = Thread(target=build_index, args=arguments, kwargs={"resources": of(started)})
        build.start()
        for done, pid in enumerate(victims):
            wait_for(lambda done=done: len(list(tmp_path.glob("index/.work/*/*.done.json"))) >= done, build)
            wait_for(lambda: list(tmp_path.glob("index/.work/*/*.started")), build)
            os.kill(pid, signal.SIGKILL)
        build.join(300)
        assert victims.isdisjoint(client.run(os.getpid).values())
    assert_same_rows(tmp_path / "index", undisturbed)


class Waiter(AroundBuilding):
    """Builds nothing until a file is there."""

    name = "waiter"

    def __init__(self, go: Path) -> None:
        self.go = go

    def build(self, original, captions, models, config):
        wait_for_file(self.go)
        return original(captions, models, config)


def test_an_adaptive_cluster_starts_workers_and_later_ones_join(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path
) -> None:
    seen: list[set[str]] = []
    go = tmp_path / "go"

    def look(progress: Progress) -> None:
        seen.append(set(progress.workers))
        if len(seen[-1]) > 1:
            go.touch()

    with cluster(0, allowed_failures=3, threads=2) as started, Client(started) as client:
        client.register_plugin(Waiter(go))
        started.adapt(minimum=0, maximum=4, interval="100ms", target_duration="1ms")
        build_index(
            str(captions),
            tmp_path / "index",
            config,
            resources=of(started),
            on_progress=look,
        )
    assert len(next(workers for workers in seen if workers)) == 1
    assert go.exists()
    assert_same_rows(tmp_path / "index", undisturbed)


def test_what_waits_when_a_build_is_interrupted_is_not_tried_without_models(
    config: BuildConfig, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard is being built until the models are released, the next one waits on the same worker."""
    go, before = tmp_path / "go", signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not list(tmp_path.glob("index/.work/*/*.started")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def released(client: Client, name: str, release=Client.unregister_worker_plugin) -> object:
        answer = release(client, name)
        go.touch()
        time.sleep(3)
        return answer

    monkeypatch.setattr(Client, "unregister_worker_plugin", released)
    with cluster(1, allowed_failures=3) as started, Client(started) as client:
        client.register_plugin(Waiter(go))
        watching = Thread(target=interrupt, daemon=True)
        watching.start()
        with pytest.raises(KeyboardInterrupt):
            build_index(str(captions), tmp_path / "index", config, resources=of(started))
        watching.join()
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + 120
        while any(client.processing().values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (logs,) = client.get_worker_logs().values()
        assert not [text for level, text in logs if level == "ERROR"]


class Troublemaker(AroundBuilding):
    """Makes one word deadly, the process that builds it kills itself or loses its GPU, and another one an
    error.
    """

    name = "troublemaker"

    def __init__(self, deadly: str, failing: str) -> None:
        self.deadly, self.failing = deadly, failing

    def build(self, original, captions, models, config):
        outcome = original(captions, models, config)
        texts = " ".join(item.caption.text for item in captions)
        if self.failing in texts:
            raise ArithmeticError("no such mountain")
        if self.deadly in texts and len(captions) == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if self.deadly in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


def test_captions_that_kill_or_fail_are_set_aside_and_no_other(
    config: BuildConfig, captions: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rows = [{"id": f"c{number}", "caption": text} for number, text in enumerate(CAPTIONS)]
    rows.insert(3, {"id": "deadly", "caption": "a zeppelin above a beach"})
    rows.insert(6, {"id": "failing", "caption": "a volcano and a lake"})
    source = tmp_path / "captions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    with cluster(1, allowed_failures=1, threads=2) as started, Client(started) as client:
        client.register_plugin(Troublemaker("zeppelin", "volcano"))
        build_index(str(source), tmp_path / "index", replace(config, shard_size=2), resources=of(started))
    rejects = pq.read_table(tmp_path / "index" / "rejects.parquet").to_pylist()
    assert [row for row in rejects if row["caption_id"] in ("deadly", "failing")] == [
        {"caption_id": "deadly", "caption": rows[3]["caption"], "noun": "", "reason": KILLED},
        {
            "caption_id": "failing",
            "caption": rows[6]["caption"],
            "noun": "",
            "reason": f"{FAILED} (ArithmeticError)",
        },
    ]
    assert_same_rows(tmp_path / "index", undisturbed)


def test_a_caption_fails_twice_on_an_only_worker_that_nobody_can_restart(
    config: BuildConfig, captions: Path, tmp_path: Path
) -> None:
    """It keeps its address, and the build comes to an end."""
    notes: list[str] = []
    word, code = CAPTIONS[4].split()[-1], "import sys; from distributed.cli.dask_worker import main; main()"
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as started:
        command = [sys.executable, "-c", code, started.scheduler_address, "--no-nanny", "--nthreads", "1"]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with Client(started) as client:
                client.wait_for_workers(1, 300)
                client.register_plugin(Troublemaker("zeppelin", word))
                build_index(
                    str(captions),
                    tmp_path / "index",
                    config,
                    resources=of(started),
                    on_progress=lambda progress: notes.append(progress.note),
                )
        finally:
            worker.kill()
            worker.wait()
    index = PrototypeIndex.open(tmp_path / "index")
    failed = {row["caption_id"] for row in index.rejects().to_pylist() if is_quarantine(row["reason"])}
    assert "c4" in failed
    told = [
        note for note in notes if "failed (ArithmeticError: no such mountain) and cannot be started" in note
    ]
    assert len(told) == len(failed)


def test_captions_set_aside_are_tried_again_by_append_and_by_the_next_run(
    config: BuildConfig, captions: Path, undisturbed: Path, shared: Resources, tmp_path: Path
) -> None:
    word = CAPTIONS[4].split()[-1]
    with cluster(1, allowed_failures=0) as started, Client(started) as client:
        client.register_plugin(Troublemaker("zeppelin", word))
        build_index(str(captions), tmp_path / "index", config, resources=of(started))
    index = PrototypeIndex.open(tmp_path / "index")
    failed = [row for row in index.rejects().to_pylist() if is_quarantine(row["reason"])]
    assert {row["caption_id"] for row in failed} >= {"c4"}
    columns = CaptionColumns(id_column="id")
    grown = append(tmp_path / "index", str(captions), columns, resources=shared)
    assert grown.addition is not None
    whole, other = PrototypeIndex.open(tmp_path / "index"), PrototypeIndex.open(undisturbed)
    assert sorted(whole.column("id")) == sorted(other.column("id"))
    assert sorted(map(str, whole.rejects().to_pylist())) == sorted(map(str, other.rejects().to_pylist()))


def test_what_fails_with_every_caption_ends_the_build_and_is_tried_again(
    config: BuildConfig, captions: Path, undisturbed: Path, shared: Resources, tmp_path: Path
) -> None:
    halved = replace(config, shard_size=2)
    with cluster(1, allowed_failures=1) as started, Client(started) as client:
        client.register_plugin(Troublemaker("zeppelin", " "))
        with pytest.raises(
            WorkerError, match=r"captions failed \(the last on worker tcp://\S+ with ArithmeticError: no such"
        ):
            build_index(str(captions), tmp_path / "index", halved, resources=of(started))
    assert not list(tmp_path.glob("index/.work/*/*.split"))
    build_index(str(captions), tmp_path / "index", halved, resources=shared)
    assert_same_rows(tmp_path / "index", undisturbed)
