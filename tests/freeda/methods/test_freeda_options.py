"""What every method must do, done by FreeDA with each of its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import FreedaSegmenter, load, with_images
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets.settings import FreedaSettings, Preset
from freeda.presets.toml import to_toml
from freeda.records import Regions
from freeda.segmentation.marked_images import Mark, MarkedImage
from tests.conftest import WIDTH
from tests.freeda.material import random_prototypes, write_index
from tests.freeda.methods.contract import MethodContract, picture
from tests.tiny_clips import make_clip

CPU = torch.device("cpu")


def halves(image: np.ndarray, settings: FreedaSettings) -> Regions:
    labels = np.zeros(image.shape[:2], np.int32)
    labels[:, image.shape[1] // 2 :] = 1
    return Regions(labels)


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "whitened": {"metric": "whitened"},
    "whitened and refined": {
        "metric": "whitened",
        "pooling": "smooth",
        "merge_above": 0.7,
        "color_weight": 0.2,
        "pamr": 2,
    },
    "retrieved by region": {"retrieval": "region", "region_neighbors": 3},
    "regions by a function": {"regions": f"{__name__}:halves"},
    "as released": {"resizing": "plain", "pooling": "bilinear", "synonyms": False},
    "a margin of neighbours": {"neighbor_margin": 0.1},
    "less what is usual for a class": {"metric": "whitened", "compactness_weight": 0.5},
}


class TestOptions(MethodContract):
    @pytest.fixture(params=OPTIONS)
    def segmenter(self, request: pytest.FixtureRequest, index_folder: Path) -> FreedaSegmenter:
        return load(index_folder, **OPTIONS[request.param])


class TestOwnImages(MethodContract):
    """With photographs of one of the classes, under one of its other names."""

    @pytest.fixture(params=["cosine", "whitened"])
    def segmenter(self, request: pytest.FixtureRequest, index_folder: Path) -> FreedaSegmenter:
        pixels = picture(56, 70)
        left = np.indices(pixels.shape[:2])[1] < 35
        image = MarkedImage("mine.png", pixels, (Mark("kitten", left),))
        return with_images(load(index_folder, metric=request.param), [image])


@pytest.fixture(scope="module")
def other_index(
    request: pytest.FixtureRequest,
    tiny_preset: Preset,
    tokenizer: CLIPTokenizer,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An index whose keys are of another preset's CLIP."""
    folder = tmp_path_factory.mktemp("other")
    clip = load_clip([str(make_clip(request.param, tokenizer, folder / "clip"))], CPU)
    preset = replace(
        tiny_preset,
        name=f"tiny-{request.param}",
        models={**tiny_preset.models, "clip": (str(folder / "clip"),)},
        localization=replace(tiny_preset.localization, key="template"),
    )
    (home / "presets" / f"{preset.name}.toml").write_text(to_toml(preset))
    backbone = load_backbone(preset.model_ids("backbone"), CPU)
    fingerprints = {"diffusion": "-", "clip": clip.fingerprint(), "backbone": backbone.fingerprint()}
    width = clip.embed_texts(["a cat"]).shape[1]
    return write_index(folder / "index", random_prototypes(60, width, WIDTH), preset, fingerprints)


@pytest.mark.parametrize("other_index", ["sd15-pe-core", "sd15-siglip2"], indirect=True, scope="module")
class TestClips(MethodContract):
    @pytest.fixture
    def segmenter(self, other_index: Path) -> FreedaSegmenter:
        assert PrototypeIndex.open(other_index).preset.name.startswith("tiny-sd15")
        return load(other_index)
