"""ODISE as a method: the contract, the captioner, classes, checkpoints, limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import freeda
from freeda.errors import ClassNamesError, ConfigError
from freeda.methods.odise import Odise, load
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.loading import new_network
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import NetworkSettings
from freeda.presets.settings import Preset
from tests.freeda.methods.contract import MethodContract, picture
from tests.freeda.methods.odise.conftest import TINY


@pytest.fixture(scope="module")
def odise(checkpoint: Path, odise_preset: Preset) -> Odise:
    return load(weights=checkpoint)


class TestOdise(MethodContract):
    @pytest.fixture
    def segmenter(self, odise: Odise) -> Odise:
        odise._chosen = None
        return odise


def test_a_fresh_captioner_says_what_the_empty_text_says(frozen: FrozenModels) -> None:
    """Its gates start at 0; opened, it changes what the UNet sees, differently for other images."""
    network, diffusion = new_network(frozen, NetworkSettings(**TINY)), frozen.diffusion
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    empty = diffusion.empty_text()
    plain = diffusion.features(images, empty.expand(2, -1, -1))
    for tap, expected in zip(network._taps(frozen, images), plain, strict=True):
        assert torch.equal(tap, expected)
    assert network.captioner is not None
    with torch.no_grad():
        network.captioner.text_gate.fill_(0.5)
    text, _ = network.captioner(frozen.image_embeddings(images), empty)
    assert (text[0] - text[1]).abs().max() > 1e-4
    changed = network._taps(frozen, images)
    assert not torch.equal(changed[1], plain[1])
    assert torch.equal(changed[0], plain[0])  # the autoencoder's taps hear no text


def test_images_of_any_size_are_cut_into_whole_crops() -> None:
    grid = CropGrid.of((480, 640), side=1024, window=512, multiple=64)
    assert (grid.rows, grid.columns, grid.height, grid.width) == (2, 3, 512, 448)
    assert CropGrid.of((1024, 1024), side=1024, window=512, multiple=64).size == (1024, 1024)
    assert CropGrid.of((1, 1), side=128, window=128, multiple=16).size == (128, 128)
    assert CropGrid.of((128, 400), side=128, window=128, multiple=16) == CropGrid(1, 4, 128, 96)


def test_crops_joined_again_are_the_image() -> None:
    grid = CropGrid(2, 3, 4, 6)
    images = torch.arange(2 * 5 * 8 * 18.0).reshape(2, 5, 8, 18)
    crops = grid.cut(images)
    assert crops.shape == (12, 5, 4, 6)
    torch.testing.assert_close(crops[1 * 6 + 1 * 3 + 2], images[1, :, 4:8, 12:18])
    torch.testing.assert_close(grid.join(crops), images)


def test_segments_do_not_overlap_and_stuff_is_one(checkpoint: Path) -> None:
    result = load(weights=checkpoint, overlap=0.0).segment(picture(96, 140), "cat; dog; grass")
    assert result.segments
    assert sum(item.mask.astype(int) for item in result.segments).max() <= 1
    assert [item.id for item in result.segments] == list(range(1, len(result.segments) + 1))
    for item in result.segments:
        assert item.mask.shape == (96, 140) and item.name == result.classes[item.label]
        assert item.is_thing == (item.name != "grass")
    assert len([item for item in result.segments if item.name == "grass"]) <= 1


def test_stuff_can_be_named(checkpoint: Path) -> None:
    result = load(weights=checkpoint, stuff="cat; dog").segment(picture(64, 64), "cat; dog; grass")
    assert all(item.is_thing for item in result.instances)
    assert {item.name for item in result.instances} == {"grass"}


def test_stuff_is_named_as_classes_are(checkpoint: Path) -> None:
    named = load(weights=checkpoint, stuff="cat, kitten; dog").method.settings.stuff
    assert named == ("cat", "kitten", "dog")


def test_that_nothing_is_stuff_can_be_said(checkpoint: Path) -> None:
    for nothing in ([], ""):
        result = load(weights=checkpoint, stuff=nothing).segment(picture(64, 64), "cat; grass")
        assert result.segment_source is not None
        assert result.segment_source.things(result.classes) == {0, 1}
    usual = load(weights=checkpoint).segment(picture(64, 64), "cat; grass").segment_source
    assert usual is not None and usual.things(("background", "cat", "grass")) == {1}


def test_many_crops_pass_in_parts(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = picture(40, 500)  # thirteen crops
    whole = load(weights=checkpoint).segment(wide, "cat; dog; grass")
    monkeypatch.setattr("freeda.methods.odise.network._CROPS_AT_ONCE", 1)
    parts = load(weights=checkpoint).segment(wide, "cat; dog; grass")
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-4)


def test_seen_classes_are_those_with_a_name_in_common(odise: Odise) -> None:
    share = odise.encode_classes("kitten, feline; dog; GRASS").clip_share
    np.testing.assert_allclose(share, [0.3, 0.7, 0.3])
    assert odise.segment(picture(64, 64), "cat; dog; grass").paths == {
        "classes seen in training": 2,
        "other classes": 1,
    }


def test_a_synonym_counts_as_its_class(odise: Odise) -> None:
    """The best name speaks for a class: with two, no score is lower than with either."""
    image = picture(64, 90)
    both = odise.segment(image, "cat, dog; grass")
    names = odise.method.network.head.class_logits
    (encoded,) = odise.method.encode_images([odise.method.prepare(image)])
    texts = odise.encode_classes("cat, dog; grass").texts
    raw = names(encoded.embeddings, texts.vectors)
    np.testing.assert_allclose(
        texts.by_class(raw), np.stack([raw[:, :2].max(1).values, raw[:, 2], raw[:, 3]], 1), rtol=1e-6
    )
    assert both.classes == ("cat", "grass")


def test_thousands_of_classes_are_scored(odise: Odise) -> None:
    names = [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in range(250)]
    result = odise.segment(picture(40, 56), names)
    assert len(result.classes) == 5000 and result.ignore_index == 65535
    maps = odise.segment(picture(40, 56), names).segment_source
    assert maps is not None
    chosen = result.score_maps([result.classes[result.labels[20, 30]]])[0, 20, 30]
    assert chosen == pytest.approx(result.scores[20, 30], abs=1e-6)


def test_a_class_named_twice_is_refused(odise: Odise) -> None:
    with pytest.raises(ClassNamesError, match="'cat' is given twice"):
        odise.segment(picture(40, 40), "cat; dog; cat")


def test_a_result_is_pickled_with_its_segments(odise: Odise) -> None:
    import pickle

    result = odise.segment(picture(64, 64), "cat; dog; grass")
    again = pickle.loads(pickle.dumps(result))
    assert [item.area for item in map(_area, again.segments)] == [
        item.area for item in map(_area, result.segments)
    ]


class _area:
    def __init__(self, segment) -> None:
        self.area = int(segment.mask.sum())


def test_loading_writes_nothing(checkpoint: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*")}
    load(weights=checkpoint)
    assert {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*")} == before


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copytree(checkpoint, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_method_s_weights_are_refused(copied: Path) -> None:
    edit(copied, method="digseg")
    with pytest.raises(ConfigError, match="holds weights of digseg; use --method digseg"):
        load(weights=copied)


def test_other_frozen_models_are_refused(copied: Path) -> None:
    edit(copied, frozen={"diffusion": "abc", "clip": "def"})
    with pytest.raises(ConfigError, match="trained on another diffusion model .*tiny-odise.toml', or train"):
        load(weights=copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("head.null"), "head.null is missing"),
        (lambda held: held.update(extra=torch.zeros(2)), "extra is not of this network"),
        (lambda held: held.update({"head.null": torch.zeros(5)}), r"head.null is \(5,\) instead of \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copied: Path, change, message: str) -> None:
    held = load_file(copied / "model.safetensors")
    change(held)
    save_file(held, copied / "model.safetensors")
    with pytest.raises(ConfigError, match=f"do not fit .1 tensors, first: {message}"):
        load(weights=copied)


@pytest.mark.parametrize(
    "change", [{"frozen": None}, {"preset": 5}, {"settings": None}, {"classes": [[1]]}, {"stuff": 3}]
)
def test_values_of_another_type_are_damage(copied: Path, change: dict[str, object]) -> None:
    edit(copied, **change)
    with pytest.raises(ConfigError, match="config.json' is damaged"):
        load(weights=copied)


def test_damaged_and_missing_weights_are_told(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="cannot be read.*train again, or restore them"):
        load(weights=copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json' is damaged"):
        load(weights=copied)
    with pytest.raises(ConfigError, match="holds no trained weights"):
        load(weights=tmp_path)


def test_what_the_weights_were_trained_with_cannot_be_changed(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="no option or setting 'queries'; its settings are .*overlap"):
        load(weights=checkpoint, queries=50)
    assert load(weights=checkpoint, overlap=0.5).method.settings.overlap == 0.5


def test_the_checkpoint_holds_nothing_frozen(checkpoint: Path, frozen: FrozenModels) -> None:
    held = load_file(checkpoint / "model.safetensors")
    assert {name.partition(".")[0] for name in held} == {"captioner", "head"}
    assert {tensor.dtype for tensor in held.values()} == {torch.float16}


def test_it_is_one_of_the_methods(checkpoint: Path) -> None:
    model = freeda.load(method="odise", weights=str(checkpoint))
    assert model.identity["method"] == "odise" and not model.explains
    assert model.segment(picture(64, 64), "cat; grass").classes == ("cat", "grass")
