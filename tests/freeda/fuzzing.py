"""Crafted indexes, images and weights through the commands, each in a process of its own.

A file of an index is mutated and its digest in the manifest made to fit: what is tested is not the digest,
but everything behind it. `python -m tests.freeda.fuzzing INDEX --count 500` runs many; for files of weights,
`--kind model.safetensors` with the folder of weights in place of the index.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from freeda.cli import main as freeda_command
from freeda.index.format import KEYS, MANIFEST, PROTOTYPES, REJECTS

SECONDS, MEMORY = 30, 4 * 2**30
RESIDENT = 2**30
"""Bytes of memory that a command may touch beyond what the process holds before it."""
KINDS = (KEYS, PROTOTYPES, REJECTS, MANIFEST, "image.png", "image.jpg")
CONFIG = "config.json"
WEIGHTS = (CONFIG, "model.safetensors")
"""Of a trained method's checkpoint, which is given in place of an index."""
_UNFORESEEN = ("unexpected", "Traceback")
"""Words of an answer that nobody has thought of."""
_SPECIAL = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, -(2**31))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes flipped, a number replaced, a piece cut out or doubled, or the end missing."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        where = _position(len(data), rng)
        match int(rng.integers(0, 5)):
            case 0:
                data[where : where + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                width = int(rng.choice([4, 8]))
                value = int(rng.choice(_SPECIAL)) % 2 ** (8 * width)
                data[where : where + width] = value.to_bytes(width, "little")
            case 2:
                del data[where : where + int(rng.integers(1, 64))]
            case 3:
                data[where:where] = data[where : where + int(rng.integers(1, 64))]
            case _:
                del data[max(1, where) :]
    return bytes(data)


def _position(size: int, rng: np.random.Generator) -> int:
    """Mostly in the first or last kilobyte, where headers and footers are."""
    ends = min(size, 1024)
    choices = (rng.integers(0, ends), size - 1 - rng.integers(0, ends), rng.integers(0, size))
    return max(0, int(rng.choice(np.array(choices))))


def mutated_manifest(content: bytes, rng: np.random.Generator) -> bytes:
    """A manifest whose digest fits, with some values replaced or removed."""
    return signed(_altered(json.loads(content), rng))


def mutated_weights(kind: str, content: bytes, rng: np.random.Generator) -> bytes:
    """Every other configuration stays JSON, with some values replaced or removed."""
    if kind == CONFIG and rng.random() < 0.5:
        return json.dumps(_altered(json.loads(content), rng)).encode()
    return mutated(content, rng)


def _altered(data: dict, rng: np.random.Generator) -> dict:
    for _ in range(int(rng.integers(1, 3))):
        parent, key = _some_entry(data, rng)
        values = [None, -1, 0, 10**12, 1e300, "", "x" * 1000, [], {}, True, ["../x"], "/dev/zero"]
        if rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = values[int(rng.integers(0, len(values)))]
    return data


def signed(manifest: dict) -> bytes:
    """A manifest as a file, with its own digest."""
    text = json.dumps({**manifest, "digest": ""}, indent=2, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps({**manifest, "digest": digest}, indent=2, sort_keys=True) + "\n").encode()


def _some_entry(data: dict, rng: np.random.Generator) -> tuple[dict, str]:
    while True:
        key = sorted(data)[int(rng.integers(0, len(data)))]
        if isinstance(data[key], dict) and data[key] and rng.random() < 0.8:
            data = data[key]
        else:
            return data, key


def craft(source: Path, folder: Path, kind: str, rng: np.random.Generator) -> None:
    """Into `folder`: an `index/` or `weights/`, and `images/` with one picture; one file is mutated."""
    copied = folder / ("weights" if kind in WEIGHTS else "index")
    shutil.copytree(source, copied)
    (folder / "images").mkdir()
    pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / (kind if kind.startswith("image") else "image.png"))
    if kind.startswith("image"):
        path = folder / "images" / kind
        path.write_bytes(mutated(path.read_bytes(), rng))
        return
    path = copied / kind
    if kind in WEIGHTS:
        path.write_bytes(mutated_weights(kind, path.read_bytes(), rng))
        return
    if kind == MANIFEST:
        path.write_bytes(mutated_manifest(path.read_bytes(), rng))
        return
    content = mutated(path.read_bytes(), rng)
    path.write_bytes(content)
    manifest = json.loads((folder / "index" / MANIFEST).read_bytes())
    manifest["files"][kind], manifest["sizes"][kind] = hashlib.sha256(content).hexdigest(), len(content)
    (folder / "index" / MANIFEST).write_bytes(signed(manifest))


def commands(folder: Path) -> tuple[list[str], ...]:
    index, weights = str(folder / "index"), folder / "weights"
    segment = ["segment", str(folder / "images"), "--classes", "cat; dog"]
    if weights.exists():
        method = ["--method", "flowseg", "--weights", str(weights)]
        return ([*segment, *method, "--out", str(folder / "out"), "--device", "cpu"],)
    segment += ["--index", index]
    return (
        ["index", "verify", index],
        ["index", "info", index],
        ["index", "merge", index, "--out", str(folder / "merged"), "--overwrite"],
        [*segment, "--out", str(folder / "out"), "--device", "cpu"],
    )


def in_a_process(run: Callable[[], None]) -> str:
    """What is wrong with how `run` ended in a fork of this process; empty where it ended in order."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run_limited(run, writing)
    os.close(writing)
    with open(reading, "rb") as answer:
        told = answer.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"{signal.Signals(os.WTERMSIG(status)).name} {told}"
    return told


def _run_limited(run: Callable[[], None], writing: int) -> None:
    """In the child. Never returns."""
    signal.alarm(SECONDS)
    used, resident, *_ = (int(pages) * resource.getpagesize() for pages in _memory_pages())
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
        assert peak < RESIDENT, f"it took {peak / 2**30:.1f} GiB of memory"
    except BaseException:
        os.write(writing, traceback.format_exc()[-2000:].encode())
    os._exit(0)


def _memory_pages() -> list[str]:
    """Pages of this process: addressed, resident, and so on."""
    return Path("/proc/self/statm").read_text().split()


def check(arguments: list[str], expected: Sequence[int] = (0, 1, 2)) -> None:
    """Raises `AssertionError` for an answer that nobody has thought of, or another exit status."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            freeda_command.main(arguments, standalone_mode=True)
        except SystemExit as end:
            code = end.code
    text = said.getvalue()
    assert code in expected, code
    assert not any(word in text for word in _UNFORESEEN), text[-1500:]


def warm_up(source: Path, kind: str) -> None:
    """Imports what the commands import, once for all forks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        Image.new("RGB", (64, 48)).save(folder / "images" / "image.png")
        linked = folder / ("weights" if kind in WEIGHTS else "index")
        linked.symlink_to(source.resolve(), target_is_directory=True)
        for arguments in commands(folder):
            check(arguments, [0])


def fuzz(source: Path, kind: str, numbers: range) -> list[str]:
    """Failures of these mutants of a kind: the number, the command, and what went wrong."""
    torch.set_num_threads(1)
    warm_up(source, kind)
    failures = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            seed = [(*KINDS, *WEIGHTS).index(kind), number]
            craft(source, folder, kind, np.random.default_rng(seed))
            for arguments in commands(folder):
                wrong = in_a_process(lambda arguments=arguments: check(arguments))
                if wrong:
                    failures.append(f"{kind} {number} {' '.join(arguments[:2])}: {wrong}")
    return failures


@click.command()
@click.argument("source", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--count", default=500, show_default=True)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(KINDS + WEIGHTS), help="[default: all of an index]"
)
def main(source: Path, count: int, kinds: tuple[str, ...]) -> None:
    """Prints what goes wrong with COUNT mutants of every kind."""
    for kind in kinds or KINDS:
        failures = fuzz(source, kind, range(count))
        print(f"{kind}: {len(failures)} of {count} mutants were answered out of order", flush=True)  # noqa: T201
        for failure in failures:
            print(failure, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
