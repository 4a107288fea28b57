"""A DiGSeg of random weights on the tiny models."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from freeda.methods.digseg.method import Frozen
from freeda.methods.digseg.settings import NetworkSettings
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.presets.settings import Preset
from tests.conftest import make_pipeline

CPU = torch.device("cpu")
SETTINGS = NetworkSettings(side=64, multiple=64)


@pytest.fixture(scope="session")
def digseg_preset(
    tiny_preset: Preset, home: Path, tokenizer: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Preset:
    """With a diffusion model that predicts velocities."""
    from freeda.presets.toml import to_toml

    table = {"digseg": {"side": 64, "multiple": 64}}
    pipeline = make_pipeline(tokenizer, tmp_path_factory.mktemp("velocities"), version="sd21")
    models = {**tiny_preset.models, "diffusion": (str(pipeline),)}
    preset = replace(tiny_preset, name="tiny-digseg", methods=table, models=models)
    preset_file().write_text(to_toml(preset))
    return preset


def preset_file() -> Path:
    """Not among the machine's own presets, by which indexes would be trusted."""
    return Path(os.environ["FREEDA_HOME"]) / "tiny-digseg.toml"


@pytest.fixture(scope="session")
def frozen(digseg_preset: Preset) -> Frozen:
    pipeline = load_pipeline(digseg_preset.model_ids("diffusion"), CPU)
    return Frozen(pipeline, load_clip(digseg_preset.model_ids("clip"), CPU))


def new_network(frozen: Frozen, settings: NetworkSettings = SETTINGS) -> SegmentingUNet:
    torch.manual_seed(0)
    network = SegmentingUNet(frozen.pipeline.unet, settings, frozen.text_width)
    network.masks.fit(frozen.pipeline, halves())
    return network


def halves() -> torch.Tensor:
    """(12, 64, 64) masks: rectangles of several sizes."""
    rng = np.random.default_rng(0)
    masks = np.full((12, 64, 64), -1, np.float32)
    for mask in masks[1:]:
        top, left = rng.integers(0, 32, 2)
        mask[top : top + rng.integers(16, 33), left : left + rng.integers(16, 33)] = 1
    return torch.from_numpy(masks)


@pytest.fixture(scope="session", params=["one-step", "diffusion"])
def checkpoint(
    request: pytest.FixtureRequest, frozen: Frozen, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "weights"
    folder.mkdir()
    network = new_network(frozen)
    with torch.no_grad():
        network.text_path.gates.fill_(0.3)  # type: ignore[union-attr] - else classes hardly differ
    Checkpoint(
        method="digseg",
        recipe=request.param,
        preset=str(preset_file()),
        settings=asdict(SETTINGS),
        classes=(("cat", "kitten"), ("grass",)),
        stuff=("grass",),
        frozen=frozen.fingerprints(),
    ).write(folder, network)
    return folder
