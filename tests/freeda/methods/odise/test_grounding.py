"""Captions are told apart across processes: two learn what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from freeda.methods.odise.grounding import grounding_loss

ROOT = Path(__file__).parents[4]
_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from freeda.methods.odise.grounding import gathered
from freeda.training.processes import Processes
from tests.freeda.methods.odise.test_grounding import images, loss

processes = Processes.of(torch.device("cpu"))
weight = torch.nn.Parameter(torch.eye(4))
pixels, texts, told = (part[(slice(0, 3), slice(3, 5))[processes.rank]] for part in images())
queries = gathered(pixels @ weight)
told = gathered(told.float()) > 0
loss(queries[told], gathered(texts)[told], weight).backward()
processes.average_gradients([weight])
Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(weight.grad.tolist()))
"""


def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five images: queries before they are projected, nouns, and which of them have nouns."""
    generator = torch.Generator().manual_seed(0)
    pixels, texts = (torch.randn(5, count, 4, generator=generator) for count in (3, 2))
    return pixels, texts, torch.tensor([True, False, True, True, True])


def loss(queries: torch.Tensor, texts: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    similarity = torch.einsum("bqd,cnd->bqcn", queries, texts @ weight)
    return grounding_loss(similarity)


def test_two_processes_compare_all_images(tmp_path: Path) -> None:
    """Three images here and two there, one of them without nouns: gradients are those of all five together,
    not of each process's own.
    """
    weight = torch.nn.Parameter(torch.eye(4))
    pixels, texts, told = images()
    loss((pixels @ weight)[told], texts[told], weight).backward()
    script = tmp_path / "script.py"
    script.write_text(_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        + [str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        found = torch.tensor(json.loads((tmp_path / f"{rank}.json").read_text()))
        torch.testing.assert_close(found, weight.grad, rtol=1e-4, atol=1e-6)
