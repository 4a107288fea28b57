"""SAM 2 and EoMT of tiny size and random weights, in the formats of the real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

import freeda
from freeda.errors import ConfigError, ModelNotFoundError, UntrustedIndexError
from freeda.index.editing import merge
from freeda.index.format import write_manifest
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import FreedaSegmenter
from freeda.methods.freeda.method import find_superpixels
from freeda.models.mask_proposals import load_mask_proposals
from freeda.presets.settings import FreedaSettings, Preset
from freeda.presets.toml import to_toml
from freeda.records import Regions
from tests.freeda.methods.contract import MethodContract, picture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SAM 2 of 0.2 M parameters on 128 x 128 pixels."""
    backbone = Sam2HieraDetConfig(
        hidden_size=12,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 1, 2, 4],
        window_size_per_stage=[4, 2, 4, 2],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=128, mask_input_channels=8)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=32
    )
    torch.manual_seed(0)
    model = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    )
    with torch.no_grad():  # sure of its masks, and of their borders: else none is kept
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(10.0)
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(1e7)
            head.proj_out.bias.mul_(1e7)
    folder = tmp_path_factory.mktemp("sam2")
    model.save_pretrained(folder)
    square = {"height": 128, "width": 128}
    Sam2Processor(Sam2ImageProcessor(size=square, mask_size={"height": 32, "width": 32})).save_pretrained(
        folder
    )
    return str(folder)


@pytest.fixture(scope="module")
def eomt(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=8,
        num_blocks=1,
        num_queries=8,
        num_upscale_blocks=1,
        num_labels=5,
    )
    folder = tmp_path_factory.mktemp("eomt")
    EomtForUniversalSegmentation(config).save_pretrained(folder)
    EomtImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def window() -> np.ndarray:
    return picture(56, 70).astype(np.float32) / 255


def test_a_model_that_is_asked_at_points_proposes_masks(sam2: str) -> None:
    propose = load_mask_proposals([sam2], CPU, points=4)
    masks = propose(window())
    assert masks.dtype == bool and masks.shape[1:] == (56, 70) and len(masks) >= 1
    np.testing.assert_array_equal(masks, propose(window()))
    assert propose.fingerprint() == load_mask_proposals([sam2], CPU, points=4).fingerprint()


def test_the_grid_has_the_points_that_are_asked_for(sam2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    crops = Sam2ImageProcessor.generate_crop_boxes

    def watched(*arguments: Any, **options: Any) -> Any:
        made = crops(*arguments, **options)
        asked.append(made[1].reshape(-1, 2).shape[0])
        return made

    monkeypatch.setattr(Sam2ImageProcessor, "generate_crop_boxes", watched)
    for points in (2, 5):
        load_mask_proposals([sam2], CPU, points=points)(window())
    assert asked == [4, 25]


def test_a_model_of_queries_gives_each_pixel_to_one(eomt: str) -> None:
    propose = load_mask_proposals([eomt], CPU)
    masks = propose(window())
    assert masks.dtype == bool and masks.shape[1:] == (56, 70)
    assert masks.sum(0).max() <= 1 and all(mask.any() for mask in masks)
    network = EomtForUniversalSegmentation.from_pretrained(eomt).eval()
    image = torch.from_numpy(np.round(window() * 255) / 255).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    with torch.no_grad():
        answer = network(pixel_values=(small - mean) / std)
    maps = torch.nn.functional.interpolate(answer.masks_queries_logits, (56, 70), mode="bilinear")
    maps = maps[0].sigmoid()
    thing = 1 - answer.class_queries_logits[0].softmax(-1)[:, -1]
    best = (thing[:, None, None] * maps).argmax(0).numpy()
    sure = np.take_along_axis(maps.numpy(), best[None], 0)[0] > 0.5
    np.testing.assert_array_equal(masks.any(0), sure)
    for mask in masks:
        assert len(np.unique(best[mask])) == 1


def test_a_model_that_proposes_nothing_is_named(
    tiny_preset: Preset, pipeline_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="no regions model could be loaded"):
        load_mask_proposals([str(pipeline_folder / "text_encoder")], CPU)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_mask_proposals(["./nowhere"], CPU)


@pytest.fixture
def preset_file(tiny_preset: Preset, eomt: str, tmp_path: Path) -> str:
    path = tmp_path / "proposing.toml"
    models = {**tiny_preset.models, "regions": (eomt,)}
    settings = replace(tiny_preset.segmentation, regions="proposals")
    path.write_text(to_toml(replace(tiny_preset, models=models, segmentation=settings)))
    return str(path)


class TestProposals(MethodContract):
    @pytest.fixture
    def segmenter(self, index_folder: Path, preset_file: str) -> FreedaSegmenter:
        return freeda.load(index_folder, preset=preset_file, device="cpu")


def test_a_preset_s_regions_are_those_of_its_model(index_folder: Path, preset_file: str, eomt: str) -> None:
    model = freeda.load(index_folder, preset=preset_file, device="cpu")
    result = model.segment(picture(56, 70), "cat; dog")
    filled = result.paths["superpixels where no mask was proposed"]
    found = model.method.find_regions(window(), model.method.settings)
    masks = load_mask_proposals([eomt], CPU)(window())
    assert 0 < filled < result.paths["regions pooled"] + result.paths["regions scored by patch"]
    for mask in masks:
        assert len(np.unique(found.labels[mask])) == 1
    assert model.identity["regions_model"] == model.method.find_regions.fingerprint()
    plain = freeda.load(index_folder, preset=preset_file, device="cpu", regions="superpixels")
    assert plain.method.find_regions is find_superpixels
    assert "regions_model" not in plain.identity


def halves(image: np.ndarray, settings: FreedaSettings) -> Regions:
    return Regions((np.indices(image.shape[:2])[1] >= image.shape[1] // 2).astype(np.int32))


def test_a_function_of_one_s_own_finds_regions(index_folder: Path) -> None:
    model = freeda.load(index_folder, device="cpu", regions=f"{__name__}:halves")
    labels = model.segment(picture(56, 56), "cat; dog; sky").labels
    assert len(np.unique(labels[:, :28])) == len(np.unique(labels[:, 28:])) == 1
    with pytest.raises(ConfigError, match="cannot be imported: No module named 'nowhere'"):
        freeda.load(index_folder, device="cpu", regions="nowhere:function")
    with pytest.raises(ConfigError, match="'sam'; expected superpixels, proposals, or a function"):
        freeda.load(index_folder, device="cpu", regions="sam")
    with pytest.raises(ConfigError, match="names no model of role regions"):
        freeda.load(index_folder, device="cpu", regions="proposals")


def test_an_index_cannot_name_a_function(index_folder: Path, tmp_path: Path) -> None:
    merge([PrototypeIndex.open(index_folder)], tmp_path / "evil")
    index = PrototypeIndex.open(tmp_path / "evil")
    changed = {**index.manifest.preset["segmentation"], "regions": "os:abort"}
    write_manifest(
        index.folder, replace(index.manifest, preset={**index.manifest.preset, "segmentation": changed})
    )
    with pytest.raises(UntrustedIndexError, match="names a function for its regions, os:abort"):
        freeda.load(index.folder, device="cpu")
    assert freeda.load(index.folder, device="cpu", regions="superpixels")
