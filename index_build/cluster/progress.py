"""How far a build is: counts of finished shards, and a record of them for bars, logs and callers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from freeda.errors import OutputError, reason
from index_build.store.shards import ShardRecord

__all__ = ["BuildCounts", "OnProgress", "Progress", "log_progress"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a build is.

    total, done, images, prototypes, rejects: counts, total and done of captions.
    resumed, resumed_images: captions and images of an earlier run, included in the counts.
    message: the stage; empty while shards are built.
    note: a line to show to the user, instead of counts.
    workers: "busy" or "idle", by address.
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


OnProgress = Callable[[Progress], None]


@dataclass
class BuildCounts:
    """Finished shards and the sums of what they hold.

    records: by name.
    resumed: names of those that an earlier run built.
    damaged: how many shards of an earlier run had to be built again.
    """

    records: dict[str, ShardRecord] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)
    damaged: int = 0
    captions: int = 0
    images: int = 0
    prototypes: int = 0
    rejects: int = 0
    resumed_captions: int = 0
    resumed_images: int = 0

    def add(self, record: ShardRecord, *, resumed: bool = False) -> None:
        self.records[record.name] = record
        if resumed:
            self.resumed.add(record.name)
        self.captions += record.captions
        self.images += record.images
        self.prototypes += record.prototypes
        self.rejects += sum(record.rejects.values())
        self.resumed_captions += record.captions * resumed
        self.resumed_images += record.images * resumed

    def in_order(self) -> list[ShardRecord]:
        """The records in the captions' order."""
        return [self.records[name] for name in sorted(self.records)]

    def progress(self, total: int, workers: Mapping[str, str], message: str = "") -> Progress:
        return Progress(
            total=total,
            done=self.captions,
            images=self.images,
            prototypes=self.prototypes,
            rejects=self.rejects,
            resumed=self.resumed_captions,
            resumed_images=self.resumed_images,
            message=message,
            workers=workers,
        )


def log_progress(path: Path, on_progress: OnProgress) -> OnProgress:
    """Appends every record to `path`, one JSON object per line, before it goes to `on_progress`.

    Added are the time, the seconds since the start, captions per second in this run, and the seconds left.
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
            raise OutputError(f"cannot write '{path}': {reason(error)}") from error
        on_progress(progress)

    return write
