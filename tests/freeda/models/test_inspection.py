"""Folders that would run code of their own are refused before a library sees them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from freeda.errors import ConfigError, ModelNotFoundError
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.models.loading import load_first

CPU = torch.device("cpu")


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A file that a crafted model would write."""
    return tmp_path / "executed"


def crafted(folder: Path, source: Path, file: str, **changes: object) -> Path:
    """A copy of a model's folder with some entries of one JSON file changed; `a.b` stands for b in a."""
    shutil.copytree(source, folder)
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        inner = content
        *parents, last = key.split("__")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    path.write_text(json.dumps(content))
    return folder


def test_a_tokenizer_that_asks_for_code_is_refused(clip_folder: Path, tmp_path: Path, marked: Path) -> None:
    asked = {"model_cfg__text_cfg__tokenizer_kwargs": {"trust_remote_code": True}}
    folder = crafted(tmp_path / "clip", clip_folder, "open_clip_config.json", **asked)
    with pytest.raises(ModelNotFoundError, match="asks for `trust_remote_code`"):
        load_clip([str(folder)], CPU)
    mapped = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    folder = crafted(tmp_path / "mapped", clip_folder, "tokenizer_config.json", **mapped)
    with pytest.raises(ModelNotFoundError, match="asks for `auto_map`"):
        load_clip([str(folder)], CPU)
    (folder / "tokenizer_config.json").unlink()
    shutil.copy(clip_folder / "tokenizer_config.json", folder)
    (folder / "evil.py").write_text(f"open({str(marked)!r}, 'w')")
    with pytest.raises(ModelNotFoundError, match="holds code, evil.py"):
        load_clip([str(folder)], CPU)
    assert not marked.exists()


def test_pickled_weights_are_refused(clip_folder: Path, backbone_folder: Path, tmp_path: Path) -> None:
    for load, source, name in (
        (load_clip, clip_folder, "open_clip_model.safetensors"),
        (load_backbone, backbone_folder, "model.safetensors"),
    ):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        (folder / name).unlink()
        torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
        with pytest.raises(ModelNotFoundError, match="has weights as .bin only; convert them to safetensors"):
            load([str(folder)], CPU)
        shutil.copy(source / name, folder / "decoy.safetensors")
        with pytest.raises(ModelNotFoundError, match="holds no .*model.safetensors"):
            load([str(folder)], CPU)


def test_weights_from_elsewhere_are_refused(backbone_folder: Path, tmp_path: Path) -> None:
    for number, key in enumerate(("url", "file", "hf_hub_id")):
        changes = {f"pretrained_cfg__{key}": "https://example.org/weights.bin"}
        folder = crafted(tmp_path / f"{number}", backbone_folder, "config.json", **changes)
        with pytest.raises(ModelNotFoundError, match=f"takes its weights from elsewhere .`{key}`"):
            load_backbone([str(folder)], CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": ["my_module", "MyUNet"]}, "takes its unet from 'my_module'"),
        ({"_class_name": ["pipeline", "Mine"]}, "names the pipeline"),
        ({"custom_pipeline": "mine"}, "asks for `custom_pipeline`"),
    ],
)
def test_pipelines_of_other_classes_are_refused(
    pipeline_folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = crafted(tmp_path / "sd", pipeline_folder, "model_index.json", **changes)
    with pytest.raises(ModelNotFoundError, match=message):
        load_pipeline([str(folder)], CPU)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", '"' + "x" * 17_000_000 + '"'])
def test_configurations_that_are_none_are_refused(clip_folder: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_config.json").write_text(content)
    with pytest.raises(ModelNotFoundError, match=r"is no valid JSON|no configuration is so large"):
        load_clip([str(tmp_path / "clip")], CPU)


def test_a_folder_of_a_model_s_name_is_not_that_model(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("freeda.models.loading.hub_reachable", lambda: False)
    shutil.copytree(backbone_folder, tmp_path / "vit_of_somebody")
    with pytest.raises(ModelNotFoundError, match="the folder of that name here is ./vit_of_somebody"):
        load_backbone(["vit_of_somebody"], CPU)
    assert load_backbone(["./vit_of_somebody"], CPU).patch_size == 14


def test_package_ids_stay_inside_the_package() -> None:
    with pytest.raises(ConfigError, match="lies outside of the package"):
        load_first("test", ["package:../tests"], lambda model_id: model_id)


@pytest.mark.parametrize("prefix", ["hf-hub:", ""])
def test_a_hub_s_repository_that_asks_for_code_is_refused(
    clip_folder: Path, tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """The hub's local cache stands for the hub: what was downloaded lies there in the same layout."""
    asked = {"model_cfg__text_cfg__tokenizer_kwargs": {"trust_remote_code": True}}
    repository = tmp_path / "hub" / "models--evil--clip"
    snapshot = crafted(repository / "snapshots" / ("0" * 40), clip_folder, "open_clip_config.json", **asked)
    (snapshot / "evil.py").write_text(f"open({str(marked)!r}, 'w')")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for load in (load_clip, load_pipeline) if not prefix else (load_clip, load_backbone):
        with pytest.raises(ModelNotFoundError, match="evil/clip .*asks for `trust_remote_code`"):
            load([f"{prefix}evil/clip"], CPU)
    assert not marked.exists()


def test_a_hub_s_repository_in_order_is_loaded(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--good--clip"
    named = {"model_cfg__text_cfg__hf_tokenizer_name": "good/clip"}
    snapshot = crafted(repository / "snapshots" / ("1" * 40), clip_folder, "open_clip_config.json", **named)
    (snapshot / "config.json").write_text('{"model_type": "clip"}')  # as the hub's repositories have it
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = load_clip(["hf-hub:good/clip"], CPU)
    assert found.fingerprint() == load_clip([str(clip_folder)], CPU).fingerprint()


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("local-dir:{folder}", "'local-dir:' is no way to name a model"),
        ("hf-hub:evil/clip@dev", "names a revision"),
        ("ViT-B-32@{folder}/weights.pt", "ViT-B-32@.*open_clip has weights openai, "),
    ],
)
def test_ways_around_the_inspection_are_refused(
    clip_folder: Path, tmp_path: Path, marked: Path, model_id: str, message: str
) -> None:
    folder = crafted(
        tmp_path / "clip",
        clip_folder,
        "open_clip_config.json",
        model_cfg__text_cfg__tokenizer_kwargs={"trust_remote_code": True},
    )
    (folder / "evil.py").write_text(f"open({str(marked)!r}, 'w')")
    torch.save({"a": torch.zeros(1)}, folder / "weights.pt")
    with pytest.raises(ModelNotFoundError, match=message):
        load_clip([model_id.format(folder=folder)], CPU)
    assert not marked.exists()


def test_a_hub_s_repository_with_pickled_weights_is_refused(
    clip_folder: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, load, source in (("clip", load_clip, clip_folder), ("vit", load_backbone, backbone_folder)):
        repository = tmp_path / "hub" / f"models--pickled--{name}"
        snapshot = repository / "snapshots" / ("2" * 40)
        shutil.copytree(source, snapshot)
        for path in snapshot.glob("*.safetensors"):
            path.unlink()
        torch.save({"a": torch.zeros(1)}, snapshot / "open_clip_pytorch_model.bin")
        torch.save({"a": torch.zeros(1)}, snapshot / "pytorch_model.bin")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("2" * 40)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        with pytest.raises(ModelNotFoundError, match="holds no .*model.safetensors"):
            load([f"hf-hub:pickled/{name}"], CPU)
