"""What loading a method and segmenting with it must not do: reach a network, write files, import training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from freeda.methods import METHODS

ROOT = Path(__file__).parents[3]
_SCRIPT = """
import json, os, sys
from pathlib import Path

reached, written = [], []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        reached.append(repr(arguments))
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments[0]))
sys.addaudithook(watch)

import freeda
from freeda.toyworld.make_examples import EXAMPLES
model = freeda.load(method=sys.argv[1])
result = model.segment(EXAMPLES / "scene-1.png", "owl; carrot; sky")
imported = [name for name in sys.modules if name.startswith("freeda.")]
trained = [name for name in imported if "training" in name or name.endswith(".task")]
print(json.dumps([reached, written, trained, len(result.segments)]))
"""


@pytest.mark.parametrize("method", sorted(METHODS))
def test_segmenting_reaches_no_network_writes_nothing_and_imports_no_training(
    method: str, tmp_path: Path
) -> None:
    """With the embedded models; no setting tells the hub's client to stay offline."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", _SCRIPT, method],
        cwd=ROOT,
        env={
            **environment,
            "MPLCONFIGDIR": str(tmp_path),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reached, written, trained, segments = json.loads(done.stdout.splitlines()[-1])
    assert segments >= 1
    assert reached == []
    assert [name for name in written if not name.startswith(("/dev", "/proc", str(tmp_path)))] == []
    assert trained == []
