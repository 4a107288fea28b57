from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

import index_build.upstream as upstream
from freeda.errors import CaptionsError, IndexCorruptError, IndexMismatchError
from freeda.index.format import REJECTS
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import load
from freeda.presets.settings import Preset
from freeda.segmentation.evidence_sheet import draw_evidence
from index_build.upstream import import_upstream
from tests.conftest import WIDTH
from tests.freeda.methods.contract import picture

COUNT = 50


def publish(folder: Path, kind: str = "Flat") -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Artefacts as the authors laid them out: one .npy a vector, joined to FAISS rows by file name."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    vectors = rng.normal(size=(COUNT, WIDTH)).astype(np.float32)
    embeddings = folder / "embeddings"
    embeddings.mkdir(parents=True)
    names = sorted(f"{number}_cat.npy" for number in range(COUNT))  # "10_cat" sorts before "2_cat"
    for name, vector in zip(names, vectors, strict=True):
        np.save(embeddings / name, vector)
    index = faiss.index_factory(WIDTH, kind, faiss.METRIC_INNER_PRODUCT)
    index.add(keys)
    faiss.write_index(index, str(folder / "knn.index"))
    return embeddings, folder / "knn.index", keys, vectors


@pytest.mark.parametrize("kind", ["Flat", "HNSW8"])
def test_keys_and_vectors_stay_joined(tmp_path: Path, tiny_preset: Preset, kind: str) -> None:
    embeddings, knn_index, keys, vectors = publish(tmp_path, kind)
    manifest = import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset, chunk=7)
    index = PrototypeIndex.open(tmp_path / "out", verify=True)
    assert manifest.prototypes == len(index) == COUNT
    np.testing.assert_allclose(index.keys.reconstruct_n(0, COUNT), keys, atol=1e-6)
    np.testing.assert_array_equal(index.vectors(range(COUNT)), vectors.astype(np.float16).astype(np.float32))
    assert index.rows([1], ["noun"]) == [{"noun": sorted(f"{n}_cat" for n in range(COUNT))[1]}]
    result = load(tmp_path / "out").segment(picture(56, 60), "cat;dog")
    assert result.labels.shape == (56, 60)
    draw_evidence(result.explain(3, 3))


def test_vectors_that_are_not_finite_are_rejects(tmp_path: Path, tiny_preset: Preset) -> None:
    embeddings, knn_index, keys, _ = publish(tmp_path)
    np.save(embeddings / "0_cat.npy", np.full(WIDTH, np.nan, np.float32))
    import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset)
    index = PrototypeIndex.open(tmp_path / "out")
    assert len(index) == COUNT - 1
    np.testing.assert_allclose(index.keys.reconstruct(0), keys[1], atol=1e-6)
    assert pq.read_table(tmp_path / "out" / REJECTS).to_pylist() == [
        {"caption_id": "0_cat", "caption": "", "noun": "", "reason": "vector not finite"}
    ]


def test_an_interrupted_import_goes_on(
    tmp_path: Path, tiny_preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, knn_index, _, _ = publish(tmp_path)
    import_upstream(embeddings, knn_index, tmp_path / "whole", tiny_preset, chunk=8)

    def stop(done: int, total: int) -> None:
        if done == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset, chunk=8, on_progress=stop)
    read: list[str] = []
    real = upstream._read_vector
    monkeypatch.setattr(
        upstream, "_read_vector", lambda path, width: read.append(path.name) or real(path, width)
    )
    import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset, chunk=8)
    assert len(read) == COUNT - 24
    for name in ("keys.faiss", "prototypes.arrow", "rejects.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / ".work").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path, tiny_preset: Preset) -> None:
    embeddings, knn_index, keys, _ = publish(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(CaptionsError, match="no folder"):
        import_upstream(tmp_path / "nowhere", knn_index, out, tiny_preset)
    with pytest.raises(IndexCorruptError, match="cannot be read as FreeDA's index of keys"):
        import_upstream(embeddings, tmp_path / "no.index", out, tiny_preset)
    np.save(embeddings / "7_cat.npy", np.zeros(5, np.float32))
    with pytest.raises(IndexMismatchError, match=r"7_cat.npy' holds \(5,\) float32.*gives 32 numbers"):
        import_upstream(embeddings, knn_index, out, tiny_preset)
    (embeddings / "7_cat.npy").write_bytes(b"nothing")
    with pytest.raises(IndexCorruptError, match="no readable .npy file"):
        import_upstream(embeddings, knn_index, out, tiny_preset)
    (embeddings / "7_cat.npy").unlink()
    with pytest.raises(IndexCorruptError, match="holds 49 vectors, .* 50 keys"):
        import_upstream(embeddings, knn_index, out, tiny_preset)
    assert not (out / "manifest.json").exists()


def test_keys_of_other_models_are_refused(tmp_path: Path, tiny_preset: Preset) -> None:
    embeddings, knn_index, keys, _ = publish(tmp_path)
    narrow = faiss.IndexFlatIP(8)
    narrow.add(np.ascontiguousarray(keys[:, :8]))
    faiss.write_index(narrow, str(knn_index))
    with pytest.raises(IndexMismatchError, match="8-d keys, the CLIP of preset 'tiny' gives 32-d"):
        import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset)
    distances = faiss.IndexFlatL2(WIDTH)
    distances.add(keys)
    faiss.write_index(distances, str(knn_index))
    with pytest.raises(IndexCorruptError, match="is not one of Flat"):
        import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset)
    elsewhere = faiss.index_factory(WIDTH, "IVF1,Flat", faiss.METRIC_INNER_PRODUCT)
    elsewhere.train(keys)
    elsewhere.add(keys)
    lists = faiss.OnDiskInvertedLists(1, elsewhere.code_size, str(tmp_path / "lists"))
    elsewhere.replace_invlists(lists, False)
    faiss.write_index(elsewhere, str(knn_index))
    with pytest.raises(IndexCorruptError, match="its cells lie in another file"):
        import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset)
    long = faiss.IndexFlatIP(WIDTH)
    long.add(3 * keys)
    faiss.write_index(long, str(knn_index))
    with pytest.raises(IndexCorruptError, match="length 3.000; expected unit vectors"):
        import_upstream(embeddings, knn_index, tmp_path / "out", tiny_preset)
