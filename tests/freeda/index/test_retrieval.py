from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from freeda.index.editing import merge
from freeda.index.reader import PrototypeIndex
from freeda.index.retrieval import ClassRetrieval
from freeda.presets.settings import Preset
from freeda.records import Prototype
from freeda.vectors import unit
from tests.freeda.material import random_prototypes, write_index

DIM, NOUNS = 8, ("cat", "dog", "owl")
FINGERPRINTS = {"diffusion": "-", "clip": "-", "backbone": "-"}
Write = Callable[[str, Sequence[Prototype]], PrototypeIndex]


@pytest.fixture
def write(tiny_preset: Preset, tmp_path: Path) -> Write:
    return lambda name, items: PrototypeIndex.open(
        write_index(tmp_path / name, list(items), tiny_preset, FINGERPRINTS)
    )


def noun_keys() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    keys = rng.normal(size=(len(NOUNS), DIM)).astype(np.float32)
    return dict(zip(NOUNS, keys / np.linalg.norm(keys, axis=1, keepdims=True), strict=True))


def template_prototypes(counts: dict[str, int], start: int = 0, shift: float = 0.0) -> list[Prototype]:
    """Prototypes whose key is that of their noun."""
    keys, total = noun_keys(), sum(counts.values())
    nouns = [noun for noun, count in counts.items() for _ in range(count)]
    drawn = random_prototypes(start + total, DIM, DIM)[start:]
    return [
        replace(item, id=f"p{start + n}", noun=noun, key=keys[noun], vector=item.vector + shift)
        for n, (item, noun) in enumerate(zip(drawn, nouns, strict=True))
    ]


def class_vectors(index: PrototypeIndex, k: int) -> np.ndarray:
    return index.class_prototypes(np.stack(list(noun_keys().values())), k).vectors


@pytest.mark.parametrize("cats", [30, 300])
def test_all_prototypes_that_tie_are_taken(write: Write, monkeypatch: pytest.MonkeyPatch, cats: int) -> None:
    monkeypatch.setattr("freeda.index.retrieval._BLOCK", 64)
    items = template_prototypes({"cat": cats, "dog": 105, "owl": 112})
    index = write("one", items)
    found = index.class_prototypes(noun_keys()["cat"][None], 7)
    assert sorted(row for row in found.rows[0] if row >= 0) == list(range(cats))
    mean = np.stack([item.vector for item in items[:cats]]).astype(np.float64).mean(0)
    np.testing.assert_allclose(found.vectors[0], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5)
    # Where the k-th nearest is the last of its noun, nothing more is taken.
    assert (index.class_prototypes(noun_keys()["cat"][None], cats).rows >= 0).sum() == cats
    beyond = index.class_prototypes(noun_keys()["cat"][None], cats + 1).rows
    assert (beyond >= 0).sum() in (cats + 105, cats + 112)


def test_a_tie_by_chance_reads_no_more_keys(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a noun with many prototypes, two have the same similarity where k ends."""
    query = noun_keys()["cat"]
    items = [replace(item, noun="cat") for item in random_prototypes(500, DIM, DIM)]
    order = np.argsort([-float(item.key @ query) for item in items])
    ninth, tenth = int(order[9]), int(order[10])
    items[tenth] = replace(items[tenth], key=items[ninth].key)
    index = write("one", items)

    def read(*_: object) -> None:
        raise AssertionError("all keys of the noun were read")

    monkeypatch.setattr(index, "rows_of_same_nouns", read)
    found = index.class_prototypes(query[None], 10).rows[0]
    assert {ninth, tenth} <= set(found.tolist())
    assert (found >= 0).sum() == 11


def test_every_prototype_is_behind_some_class(write: Write) -> None:
    index = write("one", template_prototypes({"cat": 30, "dog": 5, "owl": 12}))
    rows = index.class_prototypes(np.stack(list(noun_keys().values())), 4).rows
    assert set(rows[rows >= 0].tolist()) == set(range(47))


def test_where_appended_prototypes_stand_changes_nothing(write: Write, tmp_path: Path) -> None:
    right = template_prototypes({"cat": 400, "dog": 400, "owl": 400})
    wrong = template_prototypes({"cat": 300}, start=1200, shift=3.0)
    before = class_vectors(write("right", right), 20)
    first = class_vectors(write("first", [*wrong, *right]), 20)
    last = class_vectors(write("last", [*right, *wrong]), 20)
    among = class_vectors(write("among", [*right[:450], *wrong, *right[450:]]), 20)
    np.testing.assert_allclose(first, last, atol=1e-6)
    np.testing.assert_allclose(among, last, atol=1e-6)
    assert np.linalg.norm(before[0] - last[0]) > 0.3
    np.testing.assert_array_equal(before[1:], last[1:])
    ours, theirs = write("ours", right), write("theirs", wrong)
    for number, order in enumerate(((ours, theirs), (theirs, ours))):
        merge(order, tmp_path / f"merged{number}")
        merged = PrototypeIndex.open(tmp_path / f"merged{number}")
        np.testing.assert_allclose(class_vectors(merged, 20), last, atol=1e-6)


def test_of_very_many_ties_the_same_sample_is_taken_in_any_order(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.index.retrieval._MOST_TIED", 50)
    items = template_prototypes({"cat": 400, "dog": 5})
    query = noun_keys()["cat"][None]
    chosen = []
    for name, order in (("forward", items), ("backward", items[::-1])):
        index = write(name, order)
        found = index.class_prototypes(query, 20)
        chosen.append(index.ids(found.rows[0]))
        np.testing.assert_allclose(
            found.vectors[0], class_vectors(write(f"{name}-again", order), 20)[0], rtol=1e-6
        )
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 50
    assert len({name[:2] for name in chosen[0]}) == 9  # from everywhere


def test_threads_may_ask_beyond_what_is_kept(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 40 * (4 * DIM + 5 * 13)
    monkeypatch.setattr("freeda.index.retrieval._REMEMBERED_BYTES", most)
    index = write("one", random_prototypes(300, DIM, DIM))
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(200, DIM)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    expected = index.class_prototypes(queries, 5).vectors
    orders = [rng.permutation(200) for _ in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda order: index.class_prototypes(queries[order], 5).vectors, orders)
        for order, vectors in zip(orders, found, strict=True):
            np.testing.assert_allclose(vectors, expected[order], atol=1e-6)
    assert most / 2 < index._class_retrieval._known.size <= most


def test_an_index_travels_by_its_folder(write: Write) -> None:
    index = write("one", random_prototypes(30, DIM, DIM))
    query = random_prototypes(1, DIM, DIM)[0].key[None]
    copy = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(
        copy.class_prototypes(query, 3).vectors, index.class_prototypes(query, 3).vectors
    )


class PartlySearched:
    """20,000 keys in an inverted file of which a small part is looked at; the first is set apart."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.held = unit(rng.normal(size=(20_000, 16)))
        self.faiss = faiss.index_factory(16, "IVF256,Flat", faiss.METRIC_INNER_PRODUCT)
        self.faiss.train(self.held)
        self.faiss.add(self.held)
        self.faiss.nprobe = 2
        self.set_apart = np.arange(20_000) == 0
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.held)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(k)
        return self.faiss.search(queries, k)


def test_a_search_that_can_find_no_more_is_not_repeated() -> None:
    index = PartlySearched()
    _, rows = ClassRetrieval(index, "some")._search(index.held[:5], 414)  # type: ignore[arg-type]
    assert index.asked == [414]
    assert 0 not in rows
