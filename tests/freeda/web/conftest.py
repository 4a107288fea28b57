"""The page's server as its users start it, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

PATIENCE = 300
"""Seconds for an answer: a server that has just started loads models, and other tests have the processor."""


@dataclass(frozen=True)
class Served:
    """A running server. home: its user's own folder."""

    url: str
    process: psutil.Process
    home: Path

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE)


def started(*options: str, home: Path) -> tuple[subprocess.Popen, str]:
    """A server's process and the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "freeda.cli", "serve", "--port", "0", "--device", "cpu", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FREEDA_HOME": str(home), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    found = re.match(r"open (http://\S+)\n", process.stdout.readline())
    assert found, "the server told no address"
    return process, found[1]


def ended(process: subprocess.Popen) -> None:
    """Ends a server, whatever it is doing."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    process, url = started(home=home)
    yield Served(url, psutil.Process(process.pid), home)
    ended(process)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
