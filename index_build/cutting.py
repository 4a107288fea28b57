"""Captions cut into shards, all but the last of which fill their batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from freeda.records import Caption, Reject
from index_build.nouns import PatternNouns, TaggedCaption, noun_spans
from index_build.shards import half_names, shard_name

__all__ = ["Shard", "ShardCutter"]


@dataclass(frozen=True)
class Shard:
    """Captions of one task. Its two halves are shards as well."""

    name: str
    captions: tuple[TaggedCaption, ...]

    def halves(self) -> tuple[Shard, Shard]:
        middle = len(self.captions) // 2
        first, second = half_names(self.name)
        return Shard(first, self.captions[:middle]), Shard(second, self.captions[middle:])


class ShardCutter:
    """Shards of `size` captions with nouns, in order; those without would leave holes in their batches.

    Nouns are tagged as shards are asked for, while workers generate what they have.
    rejects: rows and nouns that give nothing to generate; left_out: rows that are in no shard.
    """

    def __init__(self, rows: Iterable[Caption | Reject], size: int) -> None:
        self._rows, self._size = rows, size
        self.rejects: list[Reject] = []
        self.left_out = 0

    def __iter__(self) -> Iterator[Shard]:
        captions = self._tagged()
        for name in map(shard_name, count()):
            chosen = tuple(islice(captions, self._size))
            if not chosen:
                return
            yield Shard(name, chosen)

    def _tagged(self) -> Iterator[TaggedCaption]:
        find_nouns = PatternNouns()
        for row in self._rows:
            spans, rejects = ([], [row]) if isinstance(row, Reject) else noun_spans(row, find_nouns)
            self.rejects += rejects
            if isinstance(row, Caption) and spans:
                yield TaggedCaption(row, tuple(spans))
            else:
                self.left_out += 1
