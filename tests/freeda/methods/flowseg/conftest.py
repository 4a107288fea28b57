"""A tiny FlowSeg, untrained or nearly so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from freeda.methods.flowseg.centroids import place_centroids
from freeda.methods.flowseg.network import FlowNetwork
from freeda.methods.flowseg.settings import NetworkSettings
from freeda.models.checkpoint import Checkpoint

TINY: dict[str, Any] = {
    "side": 32,
    "patch": 8,
    "width": 48,
    "blocks": 2,
    "heads": 3,
    "field_width": 8,
    "align_block": 1,
    "align_width": 0,
}
CLASSES = (("cat", "kitten"), ("dog",), ("grass",))


def random_network(**changes: Any) -> FlowNetwork:
    """None of its weights are zero, as those of a fresh one are."""
    settings = NetworkSettings(**{**TINY, **changes})
    centroids = torch.from_numpy(place_centroids("kronecker", len(CLASSES), settings.dimensions))
    generator = torch.Generator().manual_seed(0)
    network = FlowNetwork(settings, centroids)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator) + ("norm" in name))
    return network.eval()


def write_checkpoint(folder: Path, network: FlowNetwork) -> Path:
    folder.mkdir()
    Checkpoint(
        method="flowseg",
        recipe="labels",
        preset="toy",
        settings=asdict(network.settings),
        classes=CLASSES,
        stuff=(),
        frozen={},
    ).write(folder, network)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("flowseg") / "weights", random_network())
