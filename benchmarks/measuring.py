"""What the speed benchmarks share: clocks, the peak of memory, and the machine's description."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["PeakMemory", "Stopwatch", "fastest", "machine"]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fastest(runs: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """Each one's least seconds, the runs taking turns."""
    found = [[seconds(run, device) for run in runs] for _ in range(repeats)]
    return [min(column) for column in zip(*found, strict=True)]


class Stopwatch:
    """Seconds by name, summed over `with watch(name):` blocks."""

    def __init__(self, device: torch.device) -> None:
        self.spent: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - started


class PeakMemory:
    """The process's peak of anonymous memory above its start, looked at every 10 ms (Linux).

    Pages of mapped files are not in it.
    """

    def __enter__(self) -> PeakMemory:
        # What earlier work freed and the allocator kept would hide as much of this work's own.
        ctypes.CDLL(None).malloc_trim(0)
        self._done = threading.Event()
        self._before = _anonymous()
        self.megabytes = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._look()

    def _look(self) -> None:
        self.megabytes = max(self.megabytes, (_anonymous() - self._before) / 1e6)


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def machine(device: torch.device, precision: str = "") -> str:
    """The device and what it computes in: by default, what the package does there."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{name}, {os.cpu_count()} cores, {precision or 'float16'}, torch {torch.__version__}"
    return f"{_processor()}, {precision or 'float32'}, torch {torch.__version__}"


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if not listed.exists():
        return platform.processor()
    names = [line.split(":")[1].strip() for line in listed.read_text().splitlines() if "model name" in line]
    return f"{len(names)} cores of {names[0]}"
