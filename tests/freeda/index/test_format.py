"""Reading the files of an index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_REJECTS = Path(__file__).parents[3] / "indexes" / "toy" / "rejects.parquet"
_COUNT_THREADS = """
import os, sys
from pathlib import Path
from freeda.index.format import parquet_table, read_rejects

content = Path(sys.argv[1]).read_bytes()
before = len(os.listdir("/proc/self/task"))
table = parquet_table(content)
print(table.num_rows == read_rejects(content).num_rows, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_parquet_file_is_read_without_threads_that_outlive_python() -> None:
    command = [sys.executable, "-c", _COUNT_THREADS, str(_REJECTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"]
