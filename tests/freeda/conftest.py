from __future__ import annotations

from pathlib import Path

import pytest
import torch

from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets.settings import Preset
from tests.conftest import WIDTH
from tests.freeda.material import random_prototypes, write_index


@pytest.fixture(scope="session")
def index_folder(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty random prototypes under the tiny models' fingerprints."""
    cpu = torch.device("cpu")
    fingerprints = {
        "diffusion": "-",
        "clip": load_clip(tiny_preset.model_ids("clip"), cpu).fingerprint(),
        "backbone": load_backbone(tiny_preset.model_ids("backbone"), cpu).fingerprint(),
    }
    folder = tmp_path_factory.mktemp("method") / "index"
    return write_index(folder, random_prototypes(60, WIDTH, WIDTH), tiny_preset, fingerprints)
