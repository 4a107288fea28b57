"""RESULTS.md in sections, each rewritten by the benchmark that prints it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

RESULTS = Path(__file__).parent / "RESULTS.md"


def publish(name: str, head: Sequence[str], lines: Iterable[str], *, write: bool) -> None:
    """Prints lines as they come; with `write`, section `name` then holds `head` and them."""
    printed = []
    for line in lines:
        click.echo(line)
        printed.append(line)
    if write:
        write_section(name, [*head, *printed])


def write_section(name: str, lines: Sequence[str]) -> None:
    """Replaces section `name`, or adds it at the end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = "\n".join([begin, *lines, end])
    held = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    if begin in held:
        before, after = held.split(begin)[0], held.split(end)[1]
        RESULTS.write_text(f"{before}{section}{after}", encoding="utf-8")
    else:
        RESULTS.write_text(f"{held.rstrip()}\n\n{section}\n", encoding="utf-8")
