"""The training loop: exact resume, agreement of processes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from freeda.errors import TrainingError
from freeda.training.loop import DivergedError, Progress, fit
from tests.freeda.training.lines import Line, plan

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_and_keeps_the_averaged_weights(tmp_path: Path) -> None:
    task = Line(noise=0.1)
    reached = fit(task, 100, plan(200), tmp_path, CPU)
    held = load_file(tmp_path / "line.state.safetensors")
    assert reached.step == len(task.seen) == 200
    assert task.network.weight.item() == held["average.weight"].item() != held["weights.weight"].item()
    assert task.network.weight.item() == pytest.approx(3, abs=0.05)
    curve = rows(tmp_path / "line.curve.csv")
    assert [int(row["step"]) for row in curve] == list(range(10, 201, 10))
    assert float(curve[0]["loss"]) > 20 * float(curve[-1]["loss"])


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import freeda.training.loop as loop
from tests.freeda.training.lines import Line, plan

loop._CHECKPOINT_SECONDS = 0.0

class Killed(Line):
    def loss(self, numbers, rng, progress):
        if len(self.seen) == 33:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(numbers, rng, progress)

loop.fit(Killed(noise=1.0), 100, plan(80), Path(sys.argv[1]), torch.device("cpu"))
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, rest = Line(noise=1.0), Line(noise=1.0)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    fit(whole, 100, plan(80), tmp_path / "whole", CPU)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "cut")], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    fit(rest, 100, plan(80), tmp_path / "cut", CPU)
    assert rest.seen == whole.seen[33:]
    states = [load_file(tmp_path / name / "line.state.safetensors") for name in ("whole", "cut")]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    curves = [rows(tmp_path / name / "line.curve.csv") for name in ("whole", "cut")]
    assert [row["step"] for row in curves[0]] == [row["step"] for row in curves[1]]
    assert curves[0][-1]["loss"] == curves[1][-1]["loss"]


_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from freeda.training.loop import fit
from tests.freeda.training.lines import Line, plan

task = Line()
folder = Path(sys.argv[1])
fit(task, 100, plan(20), folder, torch.device("cpu"))
import torch.distributed as dist
rank = dist.get_rank() if dist.is_initialized() else 0
(folder / f"{rank}.json").write_text(json.dumps([task.network.weight.item(), task.seen]))
if dist.is_initialized():
    dist.barrier()  # a process that is gone would abort the other
    dist.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Each takes its half of every batch; after averaging their gradients, both hold the same weights."""
    script = tmp_path / "script.py"
    script.write_text(_PROCESSES)
    one = Line()
    (tmp_path / "one").mkdir()
    fit(one, 100, plan(20), tmp_path / "one", CPU)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    (tmp_path / "two").mkdir()
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "two")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (first, seen), (second, others) = (
        json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in (0, 1)
    )
    assert first == second == pytest.approx(one.network.weight.item(), rel=1e-3)
    assert [sorted(a + b) for a, b in zip(seen, others, strict=True)] == one.seen


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    """The state of the step before it, though the last checkpoint may be minutes old."""

    class Diverging(Line):
        def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
            return super().loss(numbers, rng, progress) * (float("nan") if len(self.seen) == 12 else 1)

    with pytest.raises(DivergedError, match=r"line: at step 11 the loss is nan.*lower learning_rate"):
        fit(Diverging(), 100, plan(50), tmp_path, CPU)
    held = load_file(tmp_path / "line.state.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in held.values())
    task = Line()
    fit(task, 100, plan(50), tmp_path, CPU)
    assert len(task.seen) == 50 - 11


def test_another_network_s_state_is_refused(tmp_path: Path) -> None:
    fit(Line(), 100, plan(5), tmp_path, CPU)
    other = Line()
    other.network = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="another network's .2 tensors differ, first average.bias"):
        fit(other, 100, plan(5), tmp_path, CPU)
    other.network = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(TrainingError, match="another network's"):
        fit(other, 100, plan(5), tmp_path, CPU)


@pytest.mark.parametrize("lost", ["adam.exp_avg.weight", "average.weight", "step"])
def test_a_state_that_lacks_a_part_is_refused(tmp_path: Path, lost: str) -> None:
    """Without it, the training would go on otherwise than it would have."""
    fit(Line(), 100, plan(5), tmp_path, CPU)
    path = tmp_path / "line.state.safetensors"
    tensors, told = load_file(path), {"step": "5", "elapsed": "1.0"}
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != lost},
        path,
        {key: value for key, value in told.items() if key != lost},
    )
    with pytest.raises(TrainingError, match="another network's|cannot be read"):
        fit(Line(), 100, plan(9), tmp_path, CPU)


class Uneven(Line):
    """Examples pull unequally; their gradients are kept, for Adam would hide their scale."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[float] = []
        self.network.weight.register_hook(lambda gradient: self.gradients.append(gradient.item()))

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        self.seen.append([int(number) for number in numbers])
        x = torch.from_numpy(1 + (numbers % 7)).double()[:, None]
        return ((self.network.weight * x - 3 * x**2) ** 2).mean()


@pytest.mark.parametrize(("at_once", "sizes"), [(8, [8]), (3, [3, 3, 2]), (1, [1] * 8)])
def test_gradients_are_accumulated_over_passes(tmp_path: Path, at_once: int, sizes: list[int]) -> None:
    """They add up to that of the mean over all of a step's examples, however many pass at once."""
    whole, parts = Uneven(), Uneven()
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    fit(whole, 100, plan(1), tmp_path / "whole", CPU)
    fit(parts, 100, plan(1, at_once=at_once), tmp_path / "parts", CPU)
    assert [len(some) for some in parts.seen] == sizes
    assert [number for some in parts.seen for number in some] == whole.seen[0]
    assert sum(parts.gradients) == pytest.approx(whole.gradients[0], rel=1e-4)


def test_a_phase_that_has_other_figures_is_resumed(tmp_path: Path) -> None:
    """Columns that only some rows have stay empty in the others."""

    class Phases(Line):
        def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
            found = super().loss(numbers, rng, progress)
            self.figures = {"first": 1.0} if progress < 0.45 else {"second": 2.0}
            return found

    fit(Phases(), 100, plan(40, minutes=1e9), tmp_path, CPU)
    fit(Phases(), 100, plan(60), tmp_path, CPU)
    found = rows(tmp_path / "line.curve.csv")
    assert float(found[0]["first"]) == 1 and np.isnan(float(found[-1]["first"] or "nan"))
    assert float(found[-1]["second"]) == 2 and np.isnan(float(found[0]["second"] or "nan"))


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    fit(Line(), 100, plan(5), tmp_path, CPU)
    path = tmp_path / "line.state.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrainingError, match="cannot be read.*delete it to begin anew"):
        fit(Line(), 100, plan(5), tmp_path, CPU)


_FULL = """
import resource, sys
from pathlib import Path
import torch
from freeda.errors import OutputError
from freeda.training.loop import fit
from tests.freeda.training.lines import Line, plan

folder = Path(sys.argv[1])
task = Line()
fit(task, 100, plan(5), folder, torch.device("cpu"))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # as on a full disk, no larger file can be written
try:
    fit(Line(), 100, plan(9), folder, torch.device("cpu"))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX")
def test_a_disk_that_is_full_costs_nothing_saved_before(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "cannot save" in done.stdout and "the state saved before is kept" in done.stdout
    task = Line()
    fit(task, 100, plan(9), tmp_path, CPU)
    assert len(task.seen) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_progress_is_told_with_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeda.training.loop._REPORT_SECONDS", 0.0)
    told: list[Progress] = []

    class Slow(Line):
        def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
            time.sleep(0.02)
            return super().loss(numbers, rng, progress)

    fit(Slow(), 100, plan(10), tmp_path, CPU, on_progress=told.append)
    assert [item.step for item in told][:3] == [1, 2, 3] and told[-1].step == 10
    for item in told:
        assert item.seconds_left == pytest.approx(item.seconds * (10 - item.step) / item.step, rel=1e-6)
    assert "line: step 10 of 10, loss" in str(told[-1]) and "0 min left" in str(told[-1])
