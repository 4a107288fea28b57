from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from freeda.cli import main
from freeda.errors import IndexCorruptError, IndexMismatchError, IndexNotFoundError
from freeda.index.format import FILES, KEYS, MANIFEST, PROTOTYPES, REJECTS, read_manifest, write_manifest
from freeda.index.reader import PrototypeIndex
from freeda.presets import load_preset
from freeda.records import Prototype
from tests.freeda import material
from tests.freeda.fuzzing import signed
from tests.freeda.material import random_prototypes

KEY_DIM, VECTOR_DIM, COUNT = 8, 6, 5000


def make_prototypes(count: int = COUNT) -> list[Prototype]:
    return random_prototypes(count, KEY_DIM, VECTOR_DIM)


def write_index(folder: Path, prototypes: list[Prototype]) -> Path:
    fingerprints = {"diffusion": "d", "clip": "c", "backbone": "b"}
    return material.write_index(folder, prototypes, load_preset("toy"), fingerprints)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index") / "small", make_prototypes())


def test_search_and_class_prototypes_equal_numpy(folder: Path) -> None:
    prototypes = make_prototypes()
    keys = np.stack([p.key for p in prototypes]).astype(np.float64)
    vectors = np.stack([p.vector for p in prototypes]).astype(np.float64)
    queries = keys[[3, 4500]] + 0.05
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    order = np.argsort(-(queries @ keys.T), axis=1)[:, :10]
    means = vectors[order].mean(1)
    found = PrototypeIndex.open(folder).class_prototypes(queries.astype(np.float32), 10)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.similarities, np.sort(queries @ keys.T, axis=1)[:, :-11:-1], rtol=1e-5)


def test_a_margin_leaves_out_what_is_less_near(folder: Path) -> None:
    prototypes = make_prototypes()
    keys = np.stack([p.key for p in prototypes]).astype(np.float64)
    query = keys[7] / np.linalg.norm(keys[7])
    similarities = keys @ query
    order = np.argsort(-similarities)[:10]
    margin = float(similarities[order[0]] - similarities[order[3:5]].mean())
    index = PrototypeIndex.open(folder)
    whole = index.class_prototypes(query[None].astype(np.float32), 10)
    found = index.class_prototypes(query[None].astype(np.float32), 10, margin=margin)
    assert found.rows.tolist() == [[*order[:4], *[-1] * 6]]
    mean = np.stack([prototypes[row].vector for row in order[:4]]).astype(np.float64).mean(0)
    np.testing.assert_allclose(found.vectors[0], mean / np.linalg.norm(mean), rtol=1e-5)
    assert whole.rows.tolist() == [order.tolist()]


def test_rows_come_from_every_record_batch(folder: Path) -> None:
    index = PrototypeIndex.open(folder)
    numbers = [0, 4095, 4096, COUNT - 1]
    assert [row["id"] for row in index.rows(numbers, ["id"])] == [str(n) for n in numbers]
    expected = np.stack([make_prototypes()[n].vector for n in numbers])
    np.testing.assert_array_equal(index.vectors(numbers), expected)
    assert sum(index.noun_counts().values()) == len(index) == COUNT


def test_vectors_are_not_copied_into_memory(folder: Path) -> None:
    views = PrototypeIndex.open(folder)._vector_views
    assert not any(view.flags.owndata or view.flags.writeable for view in views)


def test_missing_neighbours_and_non_finite_vectors_are_left_out_of_the_mean(tmp_path: Path) -> None:
    prototypes = make_prototypes(3)
    prototypes[1] = replace(prototypes[1], vector=np.full(VECTOR_DIM, np.nan, np.float32))
    index = PrototypeIndex.open(write_index(tmp_path / "few", prototypes))
    found = index.class_prototypes(prototypes[0].key[None], 10)
    assert sorted(found.rows[0]) == [0, 1, 2]
    mean = (prototypes[0].vector + prototypes[2].vector) / 2
    np.testing.assert_allclose(found.vectors[0], mean / np.linalg.norm(mean), rtol=1e-3)
    nearest_is_damaged = index.class_prototypes(prototypes[1].key[None], 3, margin=0.0)
    keys = np.stack([prototypes[0].key, prototypes[2].key])
    other = prototypes[(0, 2)[int((keys @ prototypes[1].key).argmax())]].vector
    np.testing.assert_allclose(nearest_is_damaged.vectors[0], other / np.linalg.norm(other), rtol=1e-3)


def test_vectors_are_searched_by_cosine(folder: Path) -> None:
    index = PrototypeIndex.open(folder)
    features = np.random.default_rng(3).normal(size=(5, VECTOR_DIM)) * 7
    vectors = np.stack([p.vector for p in make_prototypes()]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = features @ vectors.T / np.linalg.norm(features, axis=1, keepdims=True)
    found = index.search_vectors(features.astype(np.float32), 20)
    best = np.sort(cosines, axis=1)[:, :-21:-1]
    np.testing.assert_allclose(np.take_along_axis(cosines, found, 1), best, atol=2e-3)  # half precision
    keys = np.stack([p.key for p in make_prototypes()])
    np.testing.assert_allclose(index.mean_keys(found), keys[found].mean(1), rtol=1e-5)
    assert index.search_vectors(features[:1].astype(np.float32), 10**6).shape == (1, COUNT)


def test_classes_asked_again_are_not_searched_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = PrototypeIndex.open(folder)
    queries = np.stack([p.key for p in make_prototypes(6)])
    searched: list[int] = []
    search = index.search

    def counted(wanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        searched.append(len(wanted))
        return search(wanted, k)

    monkeypatch.setattr(index, "search", counted)
    first = index.class_prototypes(queries[:4], 10)
    again = index.class_prototypes(queries[[2, 5, 0, 2]], 10)
    assert searched == [4, 1]
    np.testing.assert_array_equal(again.vectors[[0, 2, 3]], first.vectors[[2, 0, 2]])
    np.testing.assert_array_equal(again.rows[1], PrototypeIndex.open(folder).search(queries[[5]], 10)[1][0])
    index.class_prototypes(queries[:4], 11)
    assert searched == [4, 1, 4]


def test_only_so_many_classes_are_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeda.index.retrieval._REMEMBERED_BYTES", 3 * (4 * VECTOR_DIM + 4 * 13))
    index = PrototypeIndex.open(folder)
    queries = np.stack([p.key for p in make_prototypes(5)])
    assert len(index.class_prototypes(queries, 4).rows) == 5
    monkeypatch.setattr(index, "search", None)  # whatever is asked for now must be known
    assert len(index.class_prototypes(queries[2:], 4).rows) == 3
    for forgotten in (0, 1):
        with pytest.raises(TypeError):
            index.class_prototypes(queries[[forgotten]], 4)


def test_damaged_vectors_are_never_found_and_damaged_features_find_nothing(tmp_path: Path) -> None:
    prototypes = make_prototypes(6)
    prototypes[1] = replace(prototypes[1], vector=np.full(VECTOR_DIM, np.nan, np.float32))
    index = PrototypeIndex.open(write_index(tmp_path / "damaged", prototypes))
    features = np.stack([prototypes[4].vector, np.full(VECTOR_DIM, np.inf, np.float32)])
    found = index.search_vectors(features, 10)
    assert found.shape == (2, 5)
    assert found[0, 0] == 4
    assert set(found[0]) == {0, 2, 3, 4, 5}
    assert (found[1] == -1).all()
    means = index.mean_keys(found)
    assert np.isfinite(means[0]).all()
    assert np.isnan(means[1]).all()
    for read in (index.vectors, index.keys_of):
        with pytest.raises(ValueError, match="-1, which stands for no prototype"):
            read(found[1])


def test_an_index_written_anew_leaves_the_mapped_one_alone(tmp_path: Path) -> None:
    index = PrototypeIndex.open(write_index(tmp_path / "same", make_prototypes(50)))
    before = index.keys_of([7]), index.vectors([7])
    write_index(tmp_path / "same", make_prototypes(3))
    np.testing.assert_array_equal(index.keys_of([7]), before[0])
    np.testing.assert_array_equal(index.vectors([7]), before[1])
    assert not list((tmp_path / "same").glob("*.partial"))


def test_keys_stay_in_their_file(folder: Path) -> None:
    index = PrototypeIndex.open(folder)
    index.search(np.ones((1, KEY_DIM), np.float32), 1)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert str((folder / KEYS).resolve()) in maps.read_text()


def test_the_preset_survives_the_manifest(folder: Path) -> None:
    assert PrototypeIndex.open(folder).preset == load_preset("toy")


def test_lookup_order(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    monkeypatch.setenv("FREEDA_HOME", str(home))
    (here / "indexes").mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(IndexNotFoundError, match=r"no index 'mine'; looked in .*build-index"):
        PrototypeIndex.open("mine")
    write_index(here / "indexes" / "mine", make_prototypes(4))
    assert len(PrototypeIndex.open("mine")) == 4
    write_index(home / "indexes" / "mine", make_prototypes(5))
    assert len(PrototypeIndex.open("mine")) == 5
    write_index(here / "mine", make_prototypes(6))
    assert len(PrototypeIndex.open("mine")) == 5
    assert len(PrototypeIndex.open("./mine")) == 6


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_any_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    path = write_index(tmp_path / "index", make_prototypes(20)) / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in sorted({0, len(content) - 1, *rng.integers(len(content), size=300).tolist()}):
        flipped = content[position] ^ (1 << int(rng.integers(8)))
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        with pytest.raises(IndexCorruptError):
            PrototypeIndex.open(path.parent, verify=True)
    path.write_bytes(content)
    PrototypeIndex.open(path.parent, verify=True)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_tampered_files_are_named(name: str, tmp_path: Path) -> None:
    folder = write_index(tmp_path / "index", make_prototypes(20))
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IndexCorruptError, match=rf"{name} has \d+ bytes"):
        PrototypeIndex.open(folder)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexCorruptError, match=rf"{name} is not the one that was written"):
        PrototypeIndex.open(folder)
    path.unlink()
    with pytest.raises(IndexCorruptError, match=rf"{name} is missing"):
        PrototypeIndex.open(folder)


def test_damaged_manifests(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "index", make_prototypes(3))
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_text())
    for content, message in [
        ("{", "is damaged"),
        (json.dumps(data | {"surprise": 1}), "is damaged"),
        (json.dumps(data | {"format": 9}), "reads formats 2 and 3"),
        (manifest.read_text().replace('"seed": 0', '"seed": 1'), "its sha256 differs"),
    ]:
        manifest.write_text(content)
        with pytest.raises(IndexCorruptError, match=message):
            PrototypeIndex.open(folder)
    manifest.unlink()
    with pytest.raises(IndexCorruptError, match="never finished"):
        PrototypeIndex.open(folder)


def test_other_models_are_refused_with_both_fingerprints(folder: Path) -> None:
    index = PrototypeIndex.open(folder)
    index.require_models(clip="c", backbone="b")
    with pytest.raises(
        IndexMismatchError, match=r"another clip model \(weights c\) than the one given \(z\)"
    ):
        index.require_models(clip="z")
    with pytest.raises(IndexMismatchError, match=r"8-d keys .* gives 512-d"):
        index.search(np.zeros((1, 512), np.float32), 1)


def test_offsets_outside_of_their_buffer_are_told(tmp_path: Path) -> None:
    """An index whose digests are right, but whose text columns point anywhere."""
    folder = write_index(tmp_path / "index", make_prototypes(20))
    manifest = read_manifest(folder)
    content = bytearray((folder / PROTOTYPES).read_bytes())
    lengths = [len(item.noun) for item in make_prototypes(20)]
    found = bytes(content).find(np.cumsum([0, *lengths]).astype(np.int32).tobytes())
    assert found > 0
    content[found + 40 : found + 44] = (2**30).to_bytes(4, "little")
    (folder / PROTOTYPES).write_bytes(bytes(content))
    write_manifest(folder, manifest)
    with pytest.raises(IndexCorruptError, match="prototypes.arrow cannot be read"):
        PrototypeIndex.open(folder).noun_counts()


@pytest.mark.parametrize("name", [KEYS, PROTOTYPES, REJECTS])
def test_verify_reads_what_it_vouches_for(tmp_path: Path, name: str) -> None:
    """Files that are nothing of their kind, with digests that fit them."""
    folder = write_index(tmp_path / "index", make_prototypes(20))
    (folder / name).write_bytes(b"nothing of the kind")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = hashlib.sha256(b"nothing of the kind").hexdigest()
    manifest["sizes"][name] = len(b"nothing of the kind")
    (folder / MANIFEST).write_bytes(signed(manifest))
    told = CliRunner().invoke(main, ["index", "verify", str(folder)])
    assert told.exit_code == 1
    assert "restore or rebuild the index" in told.output


def nested(levels: int) -> dict:
    return {"of": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    "build",
    [
        {"merged": "ab"},
        {"merged": ["ab"]},
        {"merged": [{"build": {}}]},
        {"merged": [{"fingerprint": ["a"], "build": {}}]},
        {"merged": [{"fingerprint": "a", "build": 3}]},
        nested(400),
    ],
)
def test_a_build_that_cannot_be_read_part_by_part_is_damage(tmp_path: Path, build: dict) -> None:
    folder = write_index(tmp_path / "index", make_prototypes(20))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_bytes(signed({**manifest, "build": build}))
    with pytest.raises(IndexCorruptError, match="is damaged .its build is {.*restore or rebuild the index"):
        PrototypeIndex.open(folder)


def test_a_build_of_many_levels_is_read(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "index", make_prototypes(20))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_bytes(signed({**manifest, "build": nested(150)}))
    assert len(PrototypeIndex.open(folder)) == 20
