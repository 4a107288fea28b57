"""Captions cut into shards that fill their batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice

from freeda.records import Caption, Reject
from index_build.captions.nouns import FindNouns, PatternNouns, noun_spans
from freeda.records import TaggedCaption
from index_build.captions.cutting import half_names, shard_name

__all__ = ["UNTAGGED", "Shard", "cut"]

UNTAGGED = "nouns cannot be tagged"
"""How the reason begins of a text that the tagger fails on."""

_MOST_ROWS = 16
"""Rows a shard may hold for every caption with nouns that it should: what few have nouns in stays bounded."""


@dataclass(frozen=True)
class Shard:
    """One task: captions with nouns, and the rejects of the rows between them.

    rows: how many of the captions' source these are.
    """

    name: str
    captions: tuple[TaggedCaption, ...] = ()
    rejects: tuple[Reject, ...] = ()
    rows: int = 0

    def halves(self) -> tuple[Shard, Shard]:
        """Two shards of half the captions each; the first has all rejects."""
        middle = len(self.captions) // 2
        first, second = half_names(self.name)
        rest = self.captions[middle:]
        return (
            Shard(first, self.captions[:middle], self.rejects, self.rows - len(rest)),
            Shard(second, rest, rows=len(rest)),
        )


def cut(rows: Iterable[Caption | Reject], size: int, finished: Mapping[str, int]) -> Iterator[Shard]:
    """Shards of `size` captions with nouns, in order: those without would leave holes in their batches.

    Nouns are tagged as shards are asked for, while workers generate what they have.
    finished: rows of shards that are built already, by name; they are passed over and come without
    their captions.
    """
    remaining, find_nouns = iter(rows), PatternNouns()
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
    for row in islice(remaining, _MOST_ROWS * size):
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
    try:
        spans, missing = noun_spans(row, find_nouns)
    except MemoryError:
        raise
    except Exception as error:  # of the tagger's libraries; one text that they fail on is no reason to end
        reason = f"{UNTAGGED} ({type(error).__name__})"
        return [], [Reject(caption_id=row.id, caption=row.text, noun="", reason=reason)]
    return [TaggedCaption(row, tuple(spans))] if spans else [], missing
