from __future__ import annotations

from collections.abc import Sequence

import pytest

from freeda.records import Caption, Reject
from index_build.captions.cutting import Shard, cut
from index_build.captions.nouns import UNTAGGED, NounFinder
from index_build.captions.taggers import open_tagger

TEXTS = ["a cat", "slowly", "a dog", "quickly", "", "a bus", "a tree and a lamp", "softly", "a boat", "sadly"]

FIND = NounFinder(open_tagger())


def rows(texts: Sequence[str] = TEXTS) -> list[Caption | Reject]:
    return [
        Caption(id=f"c{number}", text=text)
        if text
        else Reject(caption_id=f"c{number}", caption="", noun="", reason="empty caption")
        for number, text in enumerate(texts)
    ]


def captions_of(shard: Shard) -> list[str]:
    return [item.caption.id for item in shard.captions]


def rejects_of(shard: Shard) -> list[str]:
    return [item.caption_id for item in shard.rejects]


def test_shards_are_full_of_captions_with_nouns_and_hold_every_row() -> None:
    shards = list(cut(rows(), 2, FIND, {}))
    assert list(map(captions_of, shards)) == [["c0", "c2"], ["c5", "c6"], ["c8"]]
    assert list(map(rejects_of, shards)) == [["c1"], ["c3", "c4"], ["c7", "c9"]]
    assert [shard.rows for shard in shards] == [3, 4, 3]
    assert [span.noun for span in shards[1].captions[1].spans] == ["tree", "lamp"]
    assert sorted(shard.name for shard in shards) == [shard.name for shard in shards]


def test_finished_shards_are_passed_over_untagged(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(cut(rows(), 2, FIND, {}))
    tagged = []
    find = NounFinder.__call__
    monkeypatch.setattr(NounFinder, "__call__", lambda self, text: tagged.append(text) or find(self, text))
    resumed = list(cut(rows(), 2, FIND, {shard.name: shard.rows for shard in (whole[0], whole[2])}))
    assert resumed[1] == whole[1]
    assert [shard.name for shard in resumed] == [shard.name for shard in whole]
    assert [shard.rows for shard in resumed] == [shard.rows for shard in whole]
    assert tagged == TEXTS[3:4] + TEXTS[5:7]


def test_a_shard_of_rows_without_nouns_is_bounded() -> None:
    shards = list(cut(rows(["slowly"] * 50), 2, FIND, {}))
    assert [(len(shard.captions), shard.rows) for shard in shards] == [(0, 32), (0, 18)]


def test_a_given_noun_that_is_missing_is_a_reject_of_a_caption_that_stays() -> None:
    (shard,) = cut([Caption(id="c", text="a cat", nouns=("cat", "dog"))], 2, FIND, {})
    assert [span.noun for span in shard.captions[0].spans] == ["cat"]
    assert [(item.noun, item.reason) for item in shard.rejects] == [("dog", "noun not in caption")]


def test_a_text_that_the_tagger_fails_on_is_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    find = NounFinder.__call__

    def fail(self: NounFinder, text: str) -> list:
        if "dog" in text:
            raise IndexError("out of range")
        return find(self, text)

    monkeypatch.setattr(NounFinder, "__call__", fail)
    (shard,) = cut(rows(["a cat", "a dog", "a bus"]), 8, FIND, {})
    assert captions_of(shard) == ["c0", "c2"]
    assert [(item.caption, item.reason) for item in shard.rejects] == [("a dog", f"{UNTAGGED} (IndexError)")]


def test_halves_hold_all_in_order() -> None:
    (shard,) = cut(rows(["a cat", "slowly", "a dog", "a bus"]), 8, FIND, {})
    first, second = shard.halves()
    assert (*first.captions, *second.captions) == shard.captions
    assert (*first.rejects, *second.rejects) == shard.rejects
    assert first.rows + second.rows == shard.rows
    assert shard.name < first.name < second.name
