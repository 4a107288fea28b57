from __future__ import annotations

from freeda.records import Caption, Reject
from index_build.cutting import ShardCutter


def test_shards_are_full_of_captions_with_nouns() -> None:
    texts = ["a cat", "slowly", "a dog", "quickly", "", "a bus", "a tree and a lamp", "softly", "a boat"]
    rows: list[Caption | Reject] = [Caption(id=f"c{n}", text=text) for n, text in enumerate(texts) if text]
    rows.insert(4, Reject(caption_id="c4", caption="", noun="", reason="empty caption"))
    cutter = ShardCutter(rows, 2)
    shards = list(cutter)
    assert [[item.caption.id for item in shard.captions] for shard in shards] == [
        ["c0", "c2"],
        ["c5", "c6"],
        ["c8"],
    ]
    assert [span.noun for span in shards[1].captions[1].spans] == ["tree", "lamp"]
    assert sorted(shard.name for shard in shards) == [shard.name for shard in shards]
    assert [item.caption_id for item in cutter.rejects] == ["c1", "c3", "c4", "c7"]
    assert cutter.left_out == 4


def test_a_given_noun_that_is_missing_is_a_reject_of_a_caption_that_stays() -> None:
    cutter = ShardCutter([Caption(id="c", text="a cat", nouns=("cat", "dog"))], 2)
    (shard,) = cutter
    assert [span.noun for span in shard.captions[0].spans] == ["cat"]
    assert [(item.noun, item.reason) for item in cutter.rejects] == [("dog", "noun not in caption")]
    assert cutter.left_out == 0


def test_halves_hold_all_in_order() -> None:
    (shard,) = ShardCutter([Caption(id=f"c{n}", text="a cat") for n in range(5)], 8)
    first, second = shard.halves()
    assert (*first.captions, *second.captions) == shard.captions
    assert shard.name < first.name < second.name
