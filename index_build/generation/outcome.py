"""What the captions of one shard gave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from freeda.records import Prototype, Reject
from index_build.generation.samples import Overlaps, SamplePicker

__all__ = ["ShardOutcome"]


@dataclass
class ShardOutcome:
    """Prototypes and rejects of a shard.

    images: how many were generated.
    seconds: by stage.
    samples: images for the report.
    overlaps: of the masks of one image.
    """

    prototypes: list[Prototype] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    samples: SamplePicker = field(default_factory=SamplePicker)
    overlaps: Overlaps = field(default_factory=Overlaps)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds inside the block to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
