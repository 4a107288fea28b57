"""What a check tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    subject: what was looked at.
    status: "note" for what limits but hurts nothing.
    found: what was found.
    cure: a command or a sentence; empty where nothing has to be done.
    """

    subject: str
    status: Status
    found: str
    cure: str = ""
