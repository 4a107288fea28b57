from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from freeda.cli import main
from freeda.errors import ConfigError, IndexMismatchError, IndexNotFoundError, OutputError
from freeda.index.editing import dedupe, leave_out, merge, subset
from freeda.index.format import FILES, KEYS, MANIFEST
from freeda.index.keys import KeyOptions
from freeda.index.reader import PrototypeIndex
from freeda.presets import load_preset
from freeda.records import Prototype
from tests.freeda.material import random_prototypes, write_index

KEY_DIM, VECTOR_DIM = 8, 6
WEIGHTS = {"diffusion": "d", "clip": "c", "backbone": "b"}


def make(folder: Path, prototypes: list[Prototype], weights: dict[str, str] = WEIGHTS) -> PrototypeIndex:
    return PrototypeIndex.open(write_index(folder, prototypes, load_preset("toy"), weights))


def assert_holds(index: PrototypeIndex, expected: list[Prototype]) -> None:
    found = list(index.prototypes())
    assert [(item.id.partition("#")[0], item.noun, item.seed) for item in found] == [
        (item.id, item.noun, item.seed) for item in expected
    ]
    assert len({item.id for item in found}) == len(found)
    np.testing.assert_array_equal([item.key for item in found], [item.key for item in expected])
    np.testing.assert_array_equal([item.vector for item in found], [item.vector for item in expected])


def test_prototypes_come_back_as_they_went_in_across_batches(tmp_path: Path) -> None:
    expected = random_prototypes(5000, KEY_DIM, VECTOR_DIM)
    assert_holds(make(tmp_path / "a", expected), expected)


def test_merged_indexes_hold_every_prototype_once(tmp_path: Path) -> None:
    items = random_prototypes(60, KEY_DIM, VECTOR_DIM)
    # The same id of another caption is another prototype: two data sets may count their rows alike.
    other = replace(items[0], caption="another caption")
    one, two = make(tmp_path / "a", items[:40]), make(tmp_path / "b", [*items[30:], other])
    done = merge([one, two], tmp_path / "out")
    assert done.dropped == 10
    assert done.manifest.rejects == 1  # the same row in both
    assert_holds(PrototypeIndex.open(tmp_path / "out", verify=True), [*items, other])
    again = merge([PrototypeIndex.open(tmp_path / "out"), two, one], tmp_path / "again")
    assert again.dropped == 71
    assert_holds(PrototypeIndex.open(tmp_path / "again"), [*items, other])


def test_keys_decoded_from_a_compressed_index_have_unit_length_again(tmp_path: Path) -> None:
    index = make(tmp_path / "a", random_prototypes(400, KEY_DIM, VECTOR_DIM))
    merge([index], tmp_path / "coarse", keys=KeyOptions(factory="SQ4"))
    merge([PrototypeIndex.open(tmp_path / "coarse")], tmp_path / "flat", keys=KeyOptions(factory="Flat"))
    coarse, flat = (PrototypeIndex.open(tmp_path / name).keys_of(range(400)) for name in ("coarse", "flat"))
    assert np.abs(np.linalg.norm(coarse, axis=1) - 1).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, atol=1e-6)


_KILLED = """
import os, signal, sys
import freeda.index.writer
from freeda.cli import main

freeda.index.writer.build_keys = lambda *_, **options: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_merge_that_is_killed_leaves_no_index_and_can_be_run_again(tmp_path: Path) -> None:
    items = random_prototypes(200, KEY_DIM, VECTOR_DIM)
    parts = [make(tmp_path / "a", items[:90]), make(tmp_path / "b", items[90:])]
    merge(parts, tmp_path / "whole")
    out = tmp_path / "out"
    arguments = ["index", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]
    process = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(IndexNotFoundError):
        PrototypeIndex.open(out)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    for name in (MANIFEST, *FILES):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_indexes_of_other_weights_are_not_merged(tmp_path: Path) -> None:
    items = random_prototypes(10, KEY_DIM, VECTOR_DIM)
    one, two = make(tmp_path / "a", items), make(tmp_path / "b", items, WEIGHTS | {"clip": "other"})
    with pytest.raises(IndexMismatchError, match=r"another clip model \(weights other\)"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_subset_by_nouns_or_by_captions(tmp_path: Path) -> None:
    items = random_prototypes(60, KEY_DIM, VECTOR_DIM)
    index = make(tmp_path / "a", items)
    done = subset(index, tmp_path / "nouns", nouns=["noun 3", "noun 5"])
    expected = [item for item in items if item.noun in ("noun 3", "noun 5")]
    assert done.dropped == 60 - len(expected)
    assert_holds(PrototypeIndex.open(tmp_path / "nouns", verify=True), expected)
    assert pq.read_table(tmp_path / "nouns" / "rejects.parquet").num_rows == 0
    subset(index, tmp_path / "ids", caption_ids=["c4", "x"])
    assert_holds(PrototypeIndex.open(tmp_path / "ids"), [i for i in items if i.caption_id == "c4"])
    assert pq.read_table(tmp_path / "ids" / "rejects.parquet").column("caption_id").to_pylist() == ["x"]


def test_some_prototypes_are_left_out(tmp_path: Path) -> None:
    items = random_prototypes(30, KEY_DIM, VECTOR_DIM)
    index = make(tmp_path / "a", items)
    done = leave_out(index, tmp_path / "out", rows=[3, 29, 3])
    assert done.dropped == 2
    assert_holds(PrototypeIndex.open(tmp_path / "out", verify=True), [*items[:3], *items[4:29]])
    with pytest.raises(IndexMismatchError, match="has no row 30; its rows end at 29"):
        leave_out(index, tmp_path / "other", rows=[1, 30])
    with pytest.raises(IndexMismatchError, match="no such prototype"):
        leave_out(index, tmp_path / "other", rows=range(30))


def test_an_empty_subset_leaves_what_was_there(tmp_path: Path) -> None:
    items = random_prototypes(20, KEY_DIM, VECTOR_DIM)
    index, other = make(tmp_path / "a", items), make(tmp_path / "out", items[:5])
    with pytest.raises(IndexMismatchError, match="no such prototype"):
        subset(index, tmp_path / "out", nouns=["zebra"], overwrite=True)
    assert_holds(PrototypeIndex.open(other.folder, verify=True), items[:5])


def test_an_index_is_replaced_on_request_only_and_never_by_itself(tmp_path: Path) -> None:
    items = random_prototypes(20, KEY_DIM, VECTOR_DIM)
    index = make(tmp_path / "a", items)
    with pytest.raises(OutputError, match="is the index that is read"):
        dedupe(index, tmp_path / "a", overwrite=True)
    make(tmp_path / "b", items)
    with pytest.raises(OutputError, match="holds an index already; replace it with --overwrite"):
        dedupe(index, tmp_path / "b")


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def greedy(items: list[Prototype], similarity: float) -> list[Prototype]:
    """The definition, one pair at a time."""
    kept: list[Prototype] = []
    for item in items:
        if not any(
            item.noun == other.noun
            and item.key @ other.key >= similarity
            and unit(item.vector) @ unit(other.vector) >= similarity
            for other in kept
        ):
            kept.append(item)
    return kept


def test_near_duplicates_are_left_out_as_the_definition_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeda.index.near_duplicates._CHUNK", 4)
    monkeypatch.setattr("freeda.index.near_duplicates._KEPT_CHUNK", 5)
    rng = np.random.default_rng(1)
    base = random_prototypes(12, KEY_DIM, VECTOR_DIM)
    items = []
    for number in range(150):
        source = base[rng.integers(12)]
        key = unit(source.key + 0.12 * rng.normal(size=KEY_DIM))
        vector = source.vector + 0.15 * rng.normal(size=VECTOR_DIM)
        vector = vector.astype(np.float16).astype(np.float32)
        items.append(replace(source, id=str(number), key=key, vector=vector))
    expected = greedy(items, 0.9)
    assert 20 < len(expected) < 140
    done = dedupe(make(tmp_path / "a", items), tmp_path / "out", similarity=0.9)
    assert done.dropped == 150 - len(expected)
    assert_holds(PrototypeIndex.open(tmp_path / "out", verify=True), expected)


def test_imported_prototypes_that_share_their_row_numbers_are_all_kept(tmp_path: Path) -> None:
    """They have no captions and no seeds: only names and looks tell them apart."""
    one = [replace(item, caption="", seed=-1) for item in random_prototypes(20, KEY_DIM, VECTOR_DIM)]
    two = [replace(item, noun=f"{item.noun}b", vector=-item.vector) for item in one]
    done = merge([make(tmp_path / "a", one), make(tmp_path / "b", two)], tmp_path / "out")
    assert done.dropped == 0
    assert_holds(PrototypeIndex.open(tmp_path / "out"), [*one, *two])


def test_a_misspelt_factory_is_named_and_an_older_report_goes(tmp_path: Path) -> None:
    items = random_prototypes(20, KEY_DIM, VECTOR_DIM)
    index = make(tmp_path / "a", items)
    with pytest.raises(ConfigError, match="'Flatt' is no FAISS factory for 8-d keys"):
        merge([index], tmp_path / "out", keys=KeyOptions(factory="Flatt"))
    with pytest.raises(ConfigError, match="'IVF64,Flat' cannot be trained on 20 keys"):
        merge([index], tmp_path / "out", keys=KeyOptions(factory="IVF64,Flat"))
    assert not list((tmp_path / "out").iterdir())
    make(tmp_path / "out", items)
    (tmp_path / "out" / "report.html").write_text("of another index")
    merge([index], tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("command", [["subset", "--nouns", "noun 3,noun 5"], ["dedupe"], ["merge"]])
def test_commands_index_the_keys_of_new_indexes_as_told(tmp_path: Path, command: list[str]) -> None:
    make(tmp_path / "a", random_prototypes(60, KEY_DIM, VECTOR_DIM))
    told = ["index", command[0], str(tmp_path / "a"), *command[1:], "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*told, "--factory", "HNSW8", "--index-device", "cpu"])
    assert done.exit_code == 0, done.output
    assert PrototypeIndex.open(tmp_path / "out").manifest.factory == "HNSW8"
    kind: faiss.Index = faiss.downcast_index(faiss.read_index(str(tmp_path / "out" / KEYS)))
    assert isinstance(kind, faiss.IndexHNSWFlat)
    plain = CliRunner().invoke(main, [*told, "--overwrite"])
    assert plain.exit_code == 0
    assert PrototypeIndex.open(tmp_path / "out").manifest.factory == "Flat"
