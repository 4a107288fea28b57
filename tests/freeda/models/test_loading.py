from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from freeda.errors import ModelNotFoundError
from freeda.models import loading
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.presets import load_preset

CPU = torch.device("cpu")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub address where nothing listens, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    loading.hub_reachable.cache_clear()


@pytest.mark.parametrize("name", ["sd15-vitb", "sd21-vitl", "sd-turbo-vitb"])
@pytest.mark.parametrize(
    ("kind", "load"), [("diffusion", load_pipeline), ("clip", load_clip), ("backbone", load_backbone)]
)
def test_missing_weights_are_named_with_the_cure_and_at_once(name: str, kind: str, load, no_network) -> None:
    ids = load_preset(name).model_ids(kind)
    started = time.monotonic()
    with pytest.raises(ModelNotFoundError) as caught:
        load(ids, CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert all(model_id in message for model_id in ids)
    assert "hf download" in message
    assert time.monotonic() - started < 20


def test_folders_are_tried_in_order(backbone_folder: Path, tmp_path: Path) -> None:
    load_backbone([str(tmp_path / "absent"), str(backbone_folder)], CPU)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_backbone([str(tmp_path / "absent")], CPU)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    for load in (load_pipeline, load_clip, load_backbone):
        with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
            load([str(tmp_path)], CPU)


def test_package_ids_are_folders_of_the_package() -> None:
    expected = str(Path(loading.__file__).parents[1] / "toyworld" / "weights")
    assert loading.load_first("test", ["package:toyworld/weights"], lambda model_id: model_id) == expected
