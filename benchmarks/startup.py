"""CPU time until the commands answer, beside that of importing the model libraries they stand on.

Run from the checkout's root: `python benchmarks/startup.py [--write]`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import click
from measuring import machine
from results import publish

from freeda.models.loading import choose_device
from freeda.toyworld.make_examples import EXAMPLES

_LIBRARIES = "import torch, timm, open_clip"
_SCENE = str(EXAMPLES / "scene-1.png")


def commands(folder: str) -> dict[str, list[str]]:
    segment = ["-m", "freeda.cli", "segment", _SCENE, "--classes", "cat; grass; sand", "--overwrite"]
    segment += ["--out", folder]
    return {
        "freeda --help": ["-m", "freeda.cli", "--help"],
        "freeda index verify toy": ["-m", "freeda.cli", "index", "verify", "toy"],
        "freeda segment, an unknown index": [*segment, "--index", "none"],
        "`import torch, timm, open_clip`": ["-c", _LIBRARIES],
        "freeda segment, one toy scene": [*segment, "--device", "cpu"],
    }


def cpu_seconds(arguments: Sequence[str]) -> float:
    """User and system time of one run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if (done.returncode == 1) != ("none" in arguments):  # of all commands, only the unknown index fails
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(repeats: int) -> Iterator[str]:
    yield "Least of runs that took turns, the first of each (which fills the disk's cache) left out."
    yield f"{machine(choose_device('cpu'))}."
    yield ""
    yield "| | CPU seconds |"
    yield "|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        runs = commands(folder)
        rounds = [[cpu_seconds(arguments) for arguments in runs.values()] for _ in range(1 + repeats)]
    least = [min(column) for column in zip(*rounds[1:], strict=True)]
    for name, seconds in zip(runs, least, strict=True):
        yield f"| {name} | {seconds:.2f} |"
    *_, libraries, segment = least
    yield f"| **one toy scene / importing the libraries** | {segment / libraries:.2f} |"


@click.command(context_settings={"show_default": True})
@click.option("--repeats", default=5, help="Runs of each that count.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(repeats: int, write: bool) -> None:
    """Prints the table."""
    head = [
        "## Start-up",
        "",
        "`python benchmarks/startup.py --write`: what a command costs before it answers.",
    ]
    publish("startup", head, table(repeats), write=write)


if __name__ == "__main__":
    main()
