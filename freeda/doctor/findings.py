"""What a check tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from freeda.errors import printable, reason

__all__ = ["Finding", "Status", "checked"]

Status = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    subject: what was looked at.
    status: "note" for what is worth knowing and stops nothing.
    found: what was found.
    cure: a command or a sentence; empty where nothing has to be done.
    """

    subject: str
    status: Status
    found: str
    cure: str = ""


def checked(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """A check's findings; where it fails itself, that is one."""
    try:
        yield from check()
    except Exception as error:  # a broken package may raise anything, and the other checks still tell
        found = printable(f"{type(error).__name__}: {reason(error)}")
        yield Finding(subject, "broken", found, "install the packages anew, in an environment of their own")
