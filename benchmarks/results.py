"""RESULTS.md in sections, each rewritten by the benchmark that prints it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


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
