"""A preload of own workers: Ctrl-C is the build's to answer, not that of every process that it started."""

from __future__ import annotations

import signal
from contextlib import suppress

from distributed import Worker

__all__ = ["dask_setup"]


def dask_setup(worker: Worker) -> None:
    """Called by Dask when a worker starts."""
    with suppress(ValueError):  # outside of a main thread there is no signal to be ignored
        signal.signal(signal.SIGINT, signal.SIG_IGN)
