"""A real S3 server, and one whose requests fail: the build ends as one that nothing disturbed."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import dask
import fsspec
import pytest

from index_build import BuildConfig, build_index
from tests.index_build.conftest import OWN, contents

pytestmark = pytest.mark.filterwarnings("ignore")

READ_TIMEOUT = 1


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """An S3-compatible server of its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None
            time.sleep(0.1)
    assert server.poll() is None, "the port is another program's"
    yield port
    server.kill()
    server.wait()


def use_s3(monkeypatch: pytest.MonkeyPatch, port: int) -> fsspec.AbstractFileSystem:
    """Workers inherit where the server is."""
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return fsspec.filesystem("s3", skip_instance_cache=True)


class _FailingProxy(BaseHTTPRequestHandler):
    """Passes requests on to the server of `port`, but answers every seventh with 503, hangs up on every
    eleventh after it has been carried out, and leaves every thirty-first without an answer.
    """

    protocol_version = "HTTP/1.1"
    port, counter = 0, count(1)
    failed: Counter[str] = Counter()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        number = next(self.counter)
        if number % 7 == 0:
            self.failed["503"] += 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if number % 31 == 0:
            self.failed["timed out"] += 1
            time.sleep(2 * READ_TIMEOUT)
            self.close_connection = True
            return
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        content = answer.read()
        if number % 11 == 0:
            self.failed["hung up"] += 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

    def log_message(self, *arguments: object) -> None:
        pass


def test_captions_and_index_in_an_s3_whose_requests_fail_again_and_again(
    config: BuildConfig,
    captions: Path,
    undisturbed: Path,
    tmp_path: Path,
    s3_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _FailingProxy.port = s3_port
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _FailingProxy)
    Thread(target=proxy.serve_forever, daemon=True).start()
    files = use_s3(monkeypatch, s3_port)
    files.mkdir("bucket")
    files.put_file(str(captions), "bucket/captions/captions.parquet")
    use_s3(monkeypatch, proxy.server_port)
    patience = {"config_kwargs": {"read_timeout": READ_TIMEOUT}}
    monkeypatch.setenv("FSSPEC_S3", json.dumps(patience))
    monkeypatch.setitem(fsspec.config.conf, "s3", patience)
    fsspec.filesystem("s3").clear_instance_cache()
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):  # else none would inherit
        build_index("s3://bucket/captions", "s3://bucket/index", config, resources=OWN)
    proxy.shutdown()
    assert min(_FailingProxy.failed[name] for name in ("503", "hung up", "timed out")) > 2
    found = {name.rsplit("/", 1)[1] for name in files.find("s3://bucket/index")}
    assert found == {*contents(undisturbed), "report.html"}
    files.get("s3://bucket/index", str(tmp_path / "index"), recursive=True)
    assert contents(tmp_path / "index") == contents(undisturbed)
    use_s3(monkeypatch, s3_port)
    fsspec.filesystem("s3").clear_instance_cache()
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        again = build_index("s3://bucket/captions", "s3://bucket/index", config, resources=OWN)
    assert again.already_built
