from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from freeda.errors import ConfigError
from freeda.index.editing import merge
from freeda.index.keys import (
    KeyOptions,
    build_keys,
    check_factory,
    choose_factory,
    open_keys,
    prepare_reconstruction,
    read_header,
)
from freeda.index.reader import PrototypeIndex
from freeda.presets import load_preset
from tests.freeda.material import random_prototypes, write_index

DIM = 32


def clustered(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, DIM))
    keys = centres[rng.integers(40, size=count)] + 0.4 * rng.normal(size=(count, DIM))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "Flat"),
        (2_000_000, "Flat"),
        (2_000_001, "IVF4096_HNSW32,SQ8"),
        (30_000_000, "IVF16384_HNSW32,SQ8"),
        (100_000_000, "OPQ64,IVF32768_HNSW32,PQ64"),
    ],
)
def test_the_rule_goes_by_number_and_memory(count: int, expected: str) -> None:
    assert choose_factory(count, 512) == expected


def test_less_memory_means_smaller_codes() -> None:
    assert choose_factory(1_000_000, 512, memory=2**30) == "IVF4096_HNSW32,SQ8"
    assert choose_factory(1_000_000, 512, memory=2**28) == "OPQ64,IVF4096_HNSW32,PQ64"


@pytest.mark.parametrize("factory", ["Flat", "IVF64_HNSW32,SQ8", "OPQ8,IVF64_HNSW32,PQ8"])
def test_the_recall_told_is_that_of_a_numpy_search(factory: str, tmp_path: Path) -> None:
    keys = clustered(4_000)
    told = build_keys(keys, factory, tmp_path / "keys.faiss")
    index = open_keys(tmp_path / "keys.faiss", *read_header(tmp_path / "keys.faiss")[1:])
    assert index.ntotal == len(keys)
    queries = keys[5:2000:20]
    exact = np.argsort(-(queries @ keys.T), axis=1, kind="stable")[:, :350]
    found = index.search(queries, 350)[1]
    measured = np.mean([len(np.intersect1d(a, b)) / 350 for a, b in zip(found, exact, strict=True)])
    assert told == pytest.approx(measured, abs=0.03)
    if "PQ" not in factory:
        assert told >= 0.95
    prepare_reconstruction(index)
    back = index.reconstruct_batch(np.array([3, 3_900]))
    assert (back * keys[[3, 3_900]]).sum(1).min() > (0.9 if "PQ" in factory else 0.999)


def test_a_factory_that_is_none_is_named() -> None:
    check_factory("IVF64,PQ8", (DIM,))
    with pytest.raises(ConfigError, match="'Flatt' is no FAISS factory for 32-d keys"):
        check_factory("Flatt", (DIM,))


def test_an_index_of_another_kind_answers_and_says_what_it_is(tmp_path: Path) -> None:
    items = random_prototypes(9000, DIM, 6)
    weights = {"diffusion": "d", "clip": "c", "backbone": "b"}
    exact = PrototypeIndex.open(write_index(tmp_path / "exact", items, load_preset("toy"), weights))
    done = merge([exact], tmp_path / "ivf", keys=KeyOptions(factory="IVF64_HNSW32,SQ8"))
    assert (exact.manifest.factory, exact.manifest.recall) == ("Flat", 1.0)
    assert done.manifest.factory == "IVF64_HNSW32,SQ8"
    assert 0.5 < done.manifest.recall <= 1
    index = PrototypeIndex.open(tmp_path / "ivf", verify=True)
    queries = np.stack([item.key for item in items[:50]])
    assert (index.search(queries, 1)[1][:, 0] == np.arange(50)).mean() > 0.9
    np.testing.assert_allclose(index.keys_of([0, 8999]), exact.keys_of([0, 8999]), atol=0.02)
    assert sorted(path.name for path in index.folder.iterdir()) == sorted(
        path.name for path in exact.folder.iterdir()
    )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"IxF2", "its kind b'IxF2' is not one of Flat"),
        (4, (4096).to_bytes(4, "little"), "too few or too many for its keys"),
        (8, (10**9).to_bytes(8, "little"), "too few or too many for its keys"),
        (33, b"", "it has 33 bytes"),
    ],
)
def test_a_header_that_lies_is_told_before_faiss_allocates(
    place: int, value: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.faiss"
    build_keys(clustered(100), "Flat", path)
    content = path.read_bytes()
    path.write_bytes(content[:place] + value + content[place + len(value) :] if value else content[:20])
    with pytest.raises(RuntimeError, match=message.replace("33 bytes", "20 bytes")):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.faiss")
    with pytest.raises(RuntimeError, match="it is no file"):
        read_header(tmp_path / "keys.faiss")


def test_cells_in_another_file_are_refused_before_that_is_opened(tmp_path: Path) -> None:
    keys = clustered(500)
    index = faiss.index_factory(keys.shape[1], "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(keys)
    index.add(keys)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists, False)
    faiss.write_index(index, str(tmp_path / "keys.faiss"))
    (tmp_path / "lists").write_bytes(b"mine")
    with pytest.raises(RuntimeError, match="its cells lie in another file"):
        open_keys(tmp_path / "keys.faiss", 500, keys.shape[1])
    assert (tmp_path / "lists").read_bytes() == b"mine"


def test_parts_of_kinds_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    keys = clustered(500)
    inner = faiss.IndexRefineFlat(faiss.IndexFlatIP(keys.shape[1]))
    index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(keys.shape[1], keys.shape[1]), inner)
    index.train(keys)
    index.add(keys)
    faiss.write_index(index, str(tmp_path / "keys.faiss"))
    with pytest.raises(RuntimeError, match="a part of it is of the kind IndexRefine"):
        open_keys(tmp_path / "keys.faiss", 500, keys.shape[1])


def kilobytes_to_open(path: Path, count: int, dim: int) -> int:
    """In a process of its own, whether the keys can be opened or not."""
    script = (
        "import resource, sys; from pathlib import Path; from freeda.index.keys import open_keys\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        f"try: open_keys(Path(sys.argv[1]), {count}, {dim})\n"
        "except RuntimeError: pass\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", script, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_opening_flat_keys_takes_no_memory(tmp_path: Path) -> None:
    build_keys(np.zeros((400_000, 128), np.float32), "Flat", tmp_path / "keys.faiss")  # 200 MB
    assert kilobytes_to_open(tmp_path / "keys.faiss", 400_000, 128) < 50_000


def test_a_list_longer_than_its_file_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "keys.faiss"
    build_keys(clustered(500), "PCA16,SQ8", path)
    open_keys(path, 500, DIM)
    content, length = path.read_bytes(), (500 * 16).to_bytes(8, "little")
    assert content.count(length) == 1
    path.write_bytes(content.replace(length, (2 * 10**9).to_bytes(8, "little")))
    with pytest.raises(RuntimeError, match="vector_byte_limit"):
        open_keys(path, 500, DIM)
    assert kilobytes_to_open(path, 500, DIM) < 50_000
    assert faiss.get_deserialization_vector_byte_limit() > 10**9, "FAISS's own limit is back"
