from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import faiss
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import freeda
from freeda.cli import main
from freeda.errors import ConfigError
from freeda.index.gpu_keys import GpuKeys, takes_gpu
from freeda.index.keys import KeyOptions, build_keys
from freeda.index.reader import PrototypeIndex
from freeda.presets.settings import Preset
from index_build import BuildConfig, Resources, build_index
from tests.conftest import WIDTH

needs_no_gpu = pytest.mark.skipif(
    faiss.get_num_gpus() > 0 or not hasattr(faiss, "StandardGpuResources"),
    reason="for faiss-gpu without a GPU",
)


def some_keys(factory: str = "Flat") -> tuple[faiss.Index, np.ndarray]:
    keys = np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32)
    index = faiss.index_factory(32, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(keys)
    index.add(keys)
    return index, keys


def search_from_threads(keys: GpuKeys, queries: np.ndarray, threads: int) -> list[np.ndarray]:
    together = Barrier(threads)

    def search(_: int) -> np.ndarray:
        together.wait(60)
        return np.stack([keys.search(queries, 10)[1] for _ in range(5)])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(search, range(threads)))


@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU")
@pytest.mark.parametrize("factory", ["Flat", "IVF64_HNSW32,SQ8"])
def test_threads_search_a_gpu_as_one_searches_the_cpu(factory: str) -> None:
    index, keys = some_keys(factory)
    expected = index.search(keys[:50], 10)[1]
    for found in search_from_threads(GpuKeys(index), keys[:50], 4):
        assert (found == expected).mean() > 0.99


@needs_no_gpu
def test_every_thread_searches_a_copy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: FAISS's copy within the CPU stands for the one to a GPU."""
    index, keys = some_keys()
    copies = []

    def copy(resources: object, device: int, original: faiss.Index, options: object) -> faiss.Index:
        copies.append(faiss.clone_index(original))
        return copies[-1]

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy)
    monkeypatch.setattr(faiss, "StandardGpuResources", object)
    expected = index.search(keys[:50], 10)[1]
    for found in search_from_threads(GpuKeys(index), keys[:50], 3):
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))
    assert len(copies) == 3


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is a GPU")
def test_no_gpu_is_one_line(index_folder: Path) -> None:
    with pytest.raises(ConfigError, match="FAISS sees no GPU"):
        PrototypeIndex.open(index_folder, device="cuda")


@needs_no_gpu
def test_a_method_on_a_gpu_searches_there_unless_told_otherwise(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: FAISS's copy within the CPU stands for the one to a GPU."""
    expected = freeda.load(index_folder).encode_classes("cat; dog").prototypes
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(
        faiss, "index_cpu_to_gpu", lambda resources, device, index, options: faiss.clone_index(index)
    )
    monkeypatch.setattr(faiss, "StandardGpuResources", object)
    on_gpu = freeda.load(index_folder, index_device="cuda")
    assert isinstance(on_gpu.method.index._searched, GpuKeys)
    np.testing.assert_allclose(on_gpu.encode_classes("cat; dog").prototypes, expected, rtol=1e-6)
    assert not isinstance(freeda.load(index_folder).method.index._searched, GpuKeys)
    assert takes_gpu("auto")
    assert not takes_gpu("cpu")
    with pytest.raises(ConfigError, match="index_device is 'gpu'; expected auto, cpu or cuda"):
        freeda.load(index_folder, index_device="gpu")


@pytest.mark.parametrize("factory", ["IVF64_HNSW32,SQ8", "PCAR16,IVF64_HNSW32,SQ8", "IVF64,Flat"])
def test_an_inverted_file_is_trained_and_filled_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    """Without a GPU: FAISS's copies within the CPU stand for those on GPUs."""
    keys = np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    used = []

    def spread(index: faiss.Index) -> faiss.Index:
        used.append(faiss.clone_index(index))
        return used[-1]

    if not faiss.get_num_gpus():
        monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", spread, raising=False)
    on_cpu = build_keys(keys, factory, tmp_path / "cpu.faiss")
    assert not used
    on_gpu = build_keys(keys, factory, tmp_path / "gpu.faiss", gpu=True)
    assert abs(on_gpu - on_cpu) < 0.05
    index = faiss.read_index(str(tmp_path / "gpu.faiss"))
    cells = faiss.try_extract_index_ivf(index)
    assert index.ntotal == cells.ntotal == len(keys)
    if not faiss.get_num_gpus():
        trained, filled = used
        assert (trained.d, filled.ntotal) == (cells.d, 64)
    moved = index.chain.at(0) if factory.startswith("PCA") else None
    points = faiss.downcast_VectorTransform(moved).apply(keys) if moved is not None else keys
    nearest = (points @ cells.quantizer.reconstruct_n(0, 64).T).argmax(1)
    for cell in range(64):
        size = cells.invlists.list_size(cell)
        rows = faiss.rev_swig_ptr(cells.invlists.get_ids(cell), size)
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(nearest == cell))


def test_a_device_for_the_keys_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert not KeyOptions().on_gpu()
    with pytest.raises(ConfigError, match="FAISS sees no GPU for the keys; take --index-device cpu"):
        KeyOptions(device="cuda").on_gpu()
    with pytest.raises(ConfigError, match="index_device is 'tpu'; expected auto, cpu or cuda"):
        KeyOptions(device="tpu").on_gpu()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    assert KeyOptions().on_gpu() and not KeyOptions(device="cpu").on_gpu()


def test_commands_index_keys_where_they_are_told(
    index_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: FAISS's copies within the CPU stand for those on GPUs."""
    used: list[faiss.Index] = []

    def spread(index: faiss.Index) -> faiss.Index:
        used.append(faiss.clone_index(index))
        return used[-1]

    command = ["index", "merge", str(index_folder), "--factory", "IVF2,Flat", "--overwrite", "--out"]
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    told = CliRunner().invoke(main, [*command, str(tmp_path / "i"), "--index-device", "cuda"])
    assert told.exit_code == 1
    assert "FAISS sees no GPU for the keys" in told.output
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", spread, raising=False)
    assert CliRunner().invoke(main, [*command, str(tmp_path / "i"), "--index-device", "cpu"]).exit_code == 0
    assert not used
    assert CliRunner().invoke(main, [*command, str(tmp_path / "i")]).exit_code == 0
    assert len(used) == 2  # trained and filled there


def test_a_build_without_the_gpu_asked_for_ends_before_its_models(
    tiny_preset: Preset, captions_file: Path, tmp_path: Path
) -> None:
    resources = Resources(index_device="cuda")
    with pytest.raises(ConfigError, match="FAISS sees no GPU for the keys"):
        build_index(str(captions_file), tmp_path / "i", BuildConfig(preset=tiny_preset), resources=resources)


@needs_no_gpu
@pytest.mark.parametrize("refusing", ["copy", "search"])
def test_what_a_gpu_does_not_take_is_searched_by_the_cpu_unless_a_gpu_is_asked_for(
    index_folder: Path, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    class Refusing:
        def search(self, queries: np.ndarray, k: int) -> None:
            raise RuntimeError("Error in search at x.cu:1: Error: 'k <= 2048' failed: k is too large")

    def copy(*_: object) -> Refusing:
        if refusing == "copy":
            raise RuntimeError("Error in copy at x.cpp:1: Error: 'false' failed: no such kind on a GPU")
        return Refusing()

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy)
    monkeypatch.setattr(faiss, "StandardGpuResources", object)
    queries = np.eye(WIDTH, dtype=np.float32)[:3]
    expected = PrototypeIndex.open(index_folder).search(queries, 5)[1]
    why = "the keys cannot be searched on a GPU: '(false|k <= 2048)' failed: (no such|k is too large)"
    with pytest.warns(UserWarning, match=f"{why}.*; the CPU searches them"):
        found = PrototypeIndex.open(index_folder, device="auto").search(queries, 5)[1]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ConfigError, match=f"{why}.*; take --index-device cpu"):
        PrototypeIndex.open(index_folder, device="cuda").search(queries, 5)


@pytest.mark.parametrize(("device", "wanted"), [("cuda", "auto"), ("cpu", "cpu")])
def test_keys_are_searched_where_the_models_are(
    monkeypatch: pytest.MonkeyPatch, device: str, wanted: str
) -> None:
    class OpenedError(Exception):
        pass

    def opened(name: str, *, device: str) -> None:
        raise OpenedError(device)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr("freeda.methods.base.choose_device", lambda name: torch.device(name))
    monkeypatch.setattr("freeda.methods.freeda.PrototypeIndex.open", opened)
    with pytest.raises(OpenedError, match=str(wanted)):
        freeda.load("toy", device=device)
