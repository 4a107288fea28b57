from __future__ import annotations

import random
import tracemalloc

import pytest

from index_build.captions.seen_ids import SeenIds


def test_it_answers_as_a_set_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_build.captions.seen_ids._RECENT", 7)
    seen, expected = SeenIds(), set[str]()
    rng = random.Random(0)
    for _ in range(3000):
        text = f"id {rng.randrange(1200)}"
        assert seen.add(text) == (text not in expected)
        expected.add(text)
    assert len(seen) == len(expected)


def test_equal_halves_of_digests_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_build.captions.seen_ids._RECENT", 2)
    digests = {"a": b"x" * 16, "b": b"x" * 8 + b"y" * 8, "c": b"z" * 8 + b"x" * 8, "d": b"x" * 8 + b"w" * 8}

    class Fake:
        def __init__(self, text: bytes, digest_size: int) -> None:
            self.text = text.decode()

        def digest(self) -> bytes:
            return digests[self.text]

    monkeypatch.setattr("index_build.captions.seen_ids.hashlib.blake2b", Fake)
    seen = SeenIds()
    assert [seen.add(text) for text in "abcdabcd"] == [True] * 4 + [False] * 4


def test_a_million_ids_take_little_memory() -> None:
    seen = SeenIds()
    tracemalloc.start()
    for number in range(400_000):
        seen.add(f"caption {number}")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 400_000
    assert held / 0.4 < 40e6
