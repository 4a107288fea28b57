"""An ODISE of random weights on the tiny models."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import NetworkSettings
from freeda.models.checkpoint import Checkpoint
from freeda.presets.settings import Preset

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "side": 64,
    "window": 64,
    "multiple": 64,
    "taps": (
        "vae.encoder.down_blocks.2.resnets.0",
        "unet.up_blocks.1.resnets.1",
        "unet.up_blocks.2.resnets.0",
        "vae.decoder.up_blocks.0.resnets.1",
    ),
    "tap_width": 32,
    "bottleneck": 32,
    "width": 32,
    "feedforward": 32,
    "encoder_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "heads": 4,
    "queries": 6,
}


def preset_file() -> Path:
    """Not among the machine's own presets, by which indexes would be trusted."""
    return Path(os.environ["FREEDA_HOME"]) / "tiny-odise.toml"


@pytest.fixture(scope="session")
def odise_preset(tiny_preset: Preset, home: Path) -> Preset:
    from freeda.presets.toml import to_toml

    preset = replace(tiny_preset, name="tiny-odise", methods={"odise": TINY})
    preset_file().write_text(to_toml(preset))
    return preset


@pytest.fixture(scope="session")
def frozen(odise_preset: Preset) -> FrozenModels:
    return load_frozen(odise_preset, NetworkSettings(**TINY), CPU, torch.float32)


@pytest.fixture(scope="session")
def checkpoint(odise_preset: Preset, frozen: FrozenModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odise") / "weights"
    folder.mkdir()
    write_checkpoint(folder, frozen)
    return folder


def write_checkpoint(folder: Path, frozen: FrozenModels) -> None:
    settings = NetworkSettings(**TINY)
    network = new_network(frozen, settings)
    with torch.no_grad():
        images, grid = torch.rand(1, 3, 64, 64), CropGrid(1, 1, 64, 64)
        queries = network(frozen, images, grid)[-1].embeddings
        network.head.null.copy_(-queries.mean((0, 1)))  # else all random queries are "no object"
    Checkpoint(
        method="odise",
        recipe="labels",
        preset=str(preset_file()),
        settings=asdict(settings),
        classes=(("cat", "kitten"), ("grass",)),
        stuff=("grass",),
        frozen=frozen.fingerprints(),
    ).write(folder, network)
