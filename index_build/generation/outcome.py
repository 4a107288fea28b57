"""What the captions of one shard gave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from freeda.records import Prototype, Reject
from index_build.generation.samples import Sample

__all__ = ["ShardOutcome"]


@dataclass
class ShardOutcome:
    """Prototypes and rejects of a shard.

    images: how many were generated.
    seconds: by stage.
    sample: the first image with a mask.
    """

    prototypes: list[Prototype] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sample: Sample | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds inside the block to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
