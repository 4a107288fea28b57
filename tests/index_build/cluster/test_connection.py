"""Where own workers listen, and clusters that do not answer."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import psutil
import pytest

from freeda.errors import WorkerError
from index_build import BuildConfig, Resources
from index_build.cluster import connection
from index_build.cluster.connection import connect


def test_everything_of_an_own_cluster_listens_on_the_loopback_only() -> None:
    with connect(Resources(workers=2, threads=1, device="cpu")) as client:
        client.wait_for_workers(2)
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]
        listening = [
            item.laddr.ip
            for process in processes
            for item in process.net_connections("inet")
            if item.status == psutil.CONN_LISTEN
        ]
    assert len(listening) >= 6, "a scheduler, its dashboard, two nannies and two workers"
    assert set(listening) == {"127.0.0.1"}


def test_a_scheduler_that_never_answers_is_waited_for_no_longer_than_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_ANSWER_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        expected = f"no Dask scheduler answers at 'tcp://127.0.0.1:{port}'"
        with (
            pytest.raises(WorkerError, match=expected),
            connect(Resources(scheduler=f"tcp://127.0.0.1:{port}")),
        ):
            pass
        assert time.monotonic() - started < 30


@pytest.mark.parametrize("content", ["no json", "[1]", "{}"])
def test_a_scheduler_file_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text(content)
    with (
        pytest.raises(WorkerError, match="is no scheduler file; expected the JSON that"),
        connect(Resources(scheduler=str(path))),
    ):
        pass


def test_tls_without_certificates_is_named() -> None:
    expected = r"asks for TLS, but no certificates are configured.*distributed.comm.tls"
    with (
        pytest.raises(WorkerError, match=expected),
        connect(Resources(scheduler="tls://127.0.0.1:8786")),
    ):
        pass


def test_nothing_is_logged_from_the_signal_of_ctrl_c_on() -> None:
    level, before = logging.root.manager.disable, signal.getsignal(signal.SIGINT)
    answer = signal.default_int_handler  # where tests run in the background, the signal is ignored
    signal.signal(signal.SIGINT, answer)
    with pytest.raises(KeyboardInterrupt), connect(Resources(workers=1, threads=1, device="cpu")):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            assert logging.root.manager.disable >= logging.CRITICAL
            raise
    assert logging.root.manager.disable == level
    assert signal.getsignal(signal.SIGINT) is answer
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of its own authority, with its key, in one file."""
    path = tmp_path / "cluster.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=cluster",
    ]
    subprocess.run([*command, "-keyout", path, "-out", tmp_path / "cert"], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "cert").read_text())
    return path


def test_a_build_runs_on_a_cluster_behind_tls(
    config: BuildConfig, captions: Path, undisturbed: Path, certificate: Path, tmp_path: Path
) -> None:
    tls = {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificate,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": certificate,
        "DASK_DISTRIBUTED__COMM__TLS__SCHEDULER__CERT": certificate,
        "DASK_DISTRIBUTED__COMM__TLS__WORKER__CERT": certificate,
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    }
    environment = os.environ | {name: str(value) for name, value in tls.items()}
    file, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    scheduler = [*dask, "scheduler", "--scheduler-file", str(file), "--protocol", "tls", "--port", "0"]
    worker = [*dask, "worker", "--scheduler-file", str(file), "--protocol", "tls", "--nthreads", "1"]
    running = [
        subprocess.Popen(
            [*scheduler, "--host", "127.0.0.1", "--no-dashboard"], **quiet, start_new_session=True
        ),
        subprocess.Popen([*worker, "--host", "127.0.0.1"], **quiet, start_new_session=True),
    ]
    try:
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.1)
        build = (
            "import sys; from pathlib import Path; from index_build import *; from freeda.presets import *;"
            "build_index(sys.argv[1], sys.argv[2], BuildConfig(preset=load_preset('tiny'), shard_size=1),"
            "resources=Resources(scheduler=sys.argv[3], device='cpu', threads=1))"
        )
        command = [sys.executable, "-c", build, str(captions), str(tmp_path / "index"), str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert (tmp_path / "index" / "keys.faiss").read_bytes() == (undisturbed / "keys.faiss").read_bytes()


def test_ctrl_c_ends_a_build_with_one_line_and_a_closed_stderr_ends_nothing(
    captions: Path, preset_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "freeda.cli", "build-index", str(captions), "--preset", str(preset_file)]
    command += ["--shard-size", "1", "--threads", "1", "--device", "cpu", "--out"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "a")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(tmp_path.glob("a/.work/*/*.done.json")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in shown
    assert shown.splitlines()[-1] == "interrupted; run the same command again to resume"

    reading, writing = os.pipe()
    process = subprocess.Popen([*command, str(tmp_path / "b")], stderr=writing, stdout=subprocess.DEVNULL)
    os.close(writing)
    Thread(target=lambda: (os.read(reading, 10), os.close(reading))).start()
    assert process.wait(300) == 0
    assert (tmp_path / "b" / "manifest.json").exists()
