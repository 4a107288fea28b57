"""How far a build is: one record for bars, logs and callers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from freeda.errors import OutputError

__all__ = ["Progress", "Report", "log_progress"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Counts so far. done, total, resumed: captions, the last of an earlier run, as are resumed_images of
    images; message: the stage; note: worth a line of its own; workers: "busy" or "idle" by address.
    """

    total: int
    done: int = 0
    images: int = 0
    prototypes: int = 0
    rejects: int = 0
    resumed: int = 0
    resumed_images: int = 0
    message: str = ""
    note: str = ""
    workers: Mapping[str, str] = field(default_factory=dict)


Report = Callable[[Progress], None]


def log_progress(path: Path, report: Report) -> Report:
    """Passes on to `report` and appends every record to `path`, a JSON object a line, with the time, the
    seconds since the start, captions a second in this run, and seconds left.

    Raises `OutputError`.
    """
    started = time.monotonic()

    def write(progress: Progress) -> None:
        elapsed = time.monotonic() - started
        rate = (progress.done - progress.resumed) / elapsed if elapsed else 0.0
        left = (progress.total - progress.done) / rate if rate else None
        record = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "elapsed": round(elapsed, 3),
            "captions_per_second": round(rate, 4),
            "seconds_left": None if left is None else round(left, 1),
            **asdict(progress),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
        report(progress)

    return write
