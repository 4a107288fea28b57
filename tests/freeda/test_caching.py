from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from freeda.caching import BoundedCache


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = BoundedCache[str, str](10, len)
    cache.keep({"a": "xxxx", "b": "xxx", "c": "xxx"})
    assert cache.find(["a", "z"]) == {"a": "xxxx"}
    cache.keep({"d": "x"})
    assert cache.find("abcd") == {"a": "xxxx", "c": "xxx", "d": "x"}
    cache.keep({"a": "yyyyyyy"})
    assert cache.find("acd") == {"a": "yyyyyyy", "d": "x"}
    assert cache.size == 8
    cache.keep({"e": "x" * 11})
    assert (cache.find("ade"), cache.size) == ({}, 0)


def test_threads_share_it() -> None:
    cache = BoundedCache[int, int](50)

    def use(seed: int) -> bool:
        numbers = random.Random(seed).choices(range(200), k=500)
        for number in numbers:
            found = cache.find([number, number + 1])
            if any(value != key * key for key, value in found.items()):
                return False
            cache.keep({number: number * number})
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(16)))
    assert cache.size == len(cache.find(range(300))) == 50
