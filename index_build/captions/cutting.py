"""Captions cut into shards that fill their batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

from freeda.records import Caption, Reject, TaggedCaption
from index_build.captions.nouns import FindNouns, noun_spans

__all__ = ["Shard", "cut", "half_names", "shard_name"]

_MAX_ROWS = 16
"""Rows per wanted caption that a shard may hold: it stays bounded where few captions have nouns."""


@dataclass(frozen=True)
class Shard:
    """The captions of one task.

    captions: with nouns.
    rejects: of the rows between them.
    rows: of the source, both together.
    """

    name: str
    captions: tuple[TaggedCaption, ...] = ()
    rejects: tuple[Reject, ...] = ()
    rows: int = 0

    def halves(self) -> tuple[Shard, Shard]:
        """Two shards with half of the captions each; the first has all rejects."""
        middle = len(self.captions) // 2
        first, second = half_names(self.name)
        rest = self.captions[middle:]
        return (
            Shard(first, self.captions[:middle], self.rejects, self.rows - len(rest)),
            Shard(second, rest, rows=len(rest)),
        )


def cut(
    rows: Iterable[Caption | Reject], size: int, find_nouns: FindNouns, finished: Mapping[str, int]
) -> Iterator[Shard]:
    """Shards of `size` captions with nouns, in order; captions without would leave gaps in a shard's batches.

    Nouns are tagged while workers generate: a shard is cut when it is asked for.
    finished: rows of shards that are built already, by name; these come without their captions.
    """
    remaining = iter(rows)
    for name in map(shard_name, count()):
        if name in finished:
            yield Shard(name, rows=sum(1 for _ in islice(remaining, finished[name])))
            continue
        shard = _cut_one(name, remaining, size, find_nouns)
        if not shard.rows:
            return
        yield shard


def _cut_one(name: str, remaining: Iterator[Caption | Reject], size: int, find_nouns: FindNouns) -> Shard:
    captions: list[TaggedCaption] = []
    rejects: list[Reject] = []
    rows = 0
    for row in islice(remaining, _MAX_ROWS * size):
        rows += 1
        tagged, missing = _tag(row, find_nouns)
        rejects += missing
        captions += tagged
        if len(captions) == size:
            break
    return Shard(name, tuple(captions), tuple(rejects), rows)


def _tag(row: Caption | Reject, find_nouns: FindNouns) -> tuple[list[TaggedCaption], list[Reject]]:
    if isinstance(row, Reject):
        return [], [row]
    spans, missing = noun_spans(row, find_nouns)
    return [TaggedCaption(row, tuple(spans))] if spans else [], missing


def shard_name(number: int) -> str:
    return f"shard-{number:08d}"


def half_names(name: str) -> tuple[str, str]:
    """The names of a shard's two halves, in order."""
    return f"{name}-0", f"{name}-1"
