"""An index of millions of keys: building, opening, searching, what it misses, memory.

Keys are random but clustered, as captions' nouns are. Every kind is built in a process of its own, so that
its peak memory is its own. Run from the checkout's root:
`python benchmarks/index.py [--count 2000000] [--dim 512] [--write]`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from measuring import machine
from results import publish

from freeda.index.keys import RECALL_AT, TRAINED_PER_CELL, build_keys, choose_factory, open_keys, read_header

CLASSES = 1000
_CENTRES = 4000
_SPREAD = 0.6
_BLOCK = 50_000
_PROJECTED = 100_000_000
_HEADER = """## Keys by the million

`python benchmarks/index.py --write`. Clustered random keys; "classes" are keys near the same centres. Peak
memory is of the building process (resident, with the pages of mapped files it had read).
"""


def write_keys(path: Path, count: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(_CENTRES, dim)).astype(np.float32)
    with path.open("wb") as file:
        for start in range(0, count, _BLOCK):
            file.write(_near(centres, min(_BLOCK, count - start), rng).tobytes())
    np.save(path.with_suffix(".classes.npy"), _near(centres, CLASSES, rng))


def _near(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, dim) unit vectors: a centre each, and noise of `_SPREAD` of its length."""
    noise = rng.standard_normal((count, centres.shape[1]), np.float32)
    keys = centres[rng.integers(len(centres), size=count)] + _SPREAD * noise
    unit: np.ndarray = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    return unit


def measure(folder: Path, dim: int, factory: str) -> dict[str, float]:
    """Figures of one kind, in this process."""
    keys = np.memmap(folder / "keys.f32", np.float32, "r").reshape(-1, dim)
    path = folder / "keys.faiss"
    started = time.perf_counter()
    recall = build_keys(keys, factory, path)
    built = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    index = open_keys(path, *read_header(path)[1:])
    opened = time.perf_counter() - started
    queries = np.load(folder / "keys.classes.npy")
    started = time.perf_counter()
    index.search(queries, RECALL_AT)
    searched = time.perf_counter() - started
    return {
        "build": built,
        "size": path.stat().st_size,
        "open": opened,
        "search": searched,
        "recall": recall,
        "peak": peak,
    }


def table(count: int, dim: int) -> Iterator[str]:
    yield f"{machine(torch.device('cpu'))}; {count:,} keys of {dim}-d, {CLASSES:,} classes, k = {RECALL_AT}."
    yield ""
    yield f"| kind | build, s | file, GB | open, s | {CLASSES:,} classes, s | recall | peak memory, GB |"
    yield "|---|---|---|---|---|---|---|"
    compressed = choose_factory(count, dim, memory=dim * count)
    found = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_keys(folder / "keys.f32", count, dim)
        for factory in ("Flat", compressed):
            command = [sys.executable, __file__, "--measure", factory, "--folder", name, "--dim", str(dim)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = found[factory] = json.loads(answer.splitlines()[-1])
            yield (
                f"| {factory} | {row['build']:.0f} | {row['size'] / 1e9:.2f} | {row['open']:.3f} "
                f"| {row['search']:.1f} | {row['recall']:.3f} | {row['peak'] / 1e9:.1f} |"
            )
    yield ""
    yield from projection(count, dim)


def projection(count: int, dim: int) -> Iterator[str]:
    factory, code = choose_factory(_PROJECTED, dim), dim // 8
    coded, exact = _PROJECTED * (code + 8) / 1e9, _PROJECTED * 4 * dim / 1e9
    cells = int(factory.split("IVF")[1].split("_")[0])
    trained = cells * TRAINED_PER_CELL * 4 * dim / 1e9
    yield f"At {_PROJECTED:,} keys the rule gives `{factory}`: {code} bytes of code and 8 of row number a"
    yield f"key, {_PROJECTED:,} x {code + 8} = {coded:.1f} GB, where exact keys would be"
    yield f"{_PROJECTED:,} x {4 * dim} = {exact:.0f} GB. Until they are coded they wait in a file of that"
    yield f"size, of which training reads {cells:,} x {TRAINED_PER_CELL} keys, {trained:.1f} GB. That was not"
    yield f"built; {count:,} keys were."


@click.command(context_settings={"show_default": True})
@click.option("--count", type=int, default=2_000_000)
@click.option("--dim", type=int, default=512)
@click.option("--measure", "factory", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(count: int, dim: int, factory: str | None, folder: Path | None, write: bool) -> None:
    """Prints the table."""
    if factory is not None and folder is not None:
        click.echo(json.dumps(measure(folder, dim, factory)))
        return
    publish("index", [_HEADER], table(count, dim), write=write)


if __name__ == "__main__":
    main()
