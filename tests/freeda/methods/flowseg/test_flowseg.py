"""FlowSeg as a method: the contract, its closed vocabulary, its scores."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import freeda
from freeda.class_names import ClassName
from freeda.errors import ClassNamesError, ConfigError
from freeda.methods.flowseg import FlowSeg, load
from freeda.methods.flowseg.centroids import place_centroids
from freeda.methods.flowseg.method import TextSpace
from freeda.methods.flowseg.network import FlowNetwork
from freeda.methods.flowseg.settings import NetworkSettings
from freeda.methods.flowseg.training import build
from freeda.models.checkpoint import Checkpoint
from freeda.models.clip import load_clip
from freeda.presets import load_preset
from freeda.toyworld.split import UNSEEN, TrainingScenes
from tests.freeda.methods.contract import MethodContract, picture
from tests.freeda.methods.flowseg.conftest import CLASSES, TINY, random_network, write_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flowseg(checkpoint: Path) -> FlowSeg:
    return load(weights=checkpoint)


class TestFlowSeg(MethodContract):
    OTHERS = "dog"  # there are no more in training

    @pytest.fixture
    def segmenter(self, flowseg: FlowSeg) -> FlowSeg:
        flowseg._chosen = None
        return flowseg


def test_scores_are_probabilities_among_all_classes_in_training(flowseg: FlowSeg) -> None:
    image = picture(32, 40)
    (ends,) = flowseg.method.encode_images([flowseg.method.prepare(image)])
    points = flowseg.method.network.centroids.numpy()
    distances = ((ends.numpy()[:, :, :, None] - points.T[:, None, None]) ** 2).sum(0) + 1e-3
    expected = (1 / distances) / (1 / distances).sum(-1, keepdims=True)
    found = flowseg.segment(image, "grass; kitten").score_maps(["grass", "kitten"])
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1)[[2, 0]], atol=1e-4)
    # Synonyms: the nearest of their centroids.
    both = flowseg.segment(image, "cat,dog; grass").score_maps(["cat"])
    np.testing.assert_allclose(both[0], expected[..., :2].max(-1), atol=1e-4)


def test_results_do_not_change(flowseg: FlowSeg, checkpoint: Path) -> None:
    """The flow has no noise."""
    image = picture(40, 70)
    again = load(weights=checkpoint).segment(image, "cat; grass")
    np.testing.assert_array_equal(flowseg.segment(image, "cat; grass").scores, again.scores)


def test_a_class_that_was_not_in_training_is_refused(flowseg: FlowSeg) -> None:
    with pytest.raises(
        ClassNamesError, match="class 'unicorn' was not in training.*3 classes are cat, dog, grass"
    ):
        flowseg.segment(picture(32, 32), "cat; unicorn")
    assert flowseg.segment(picture(32, 32), "unicorn,KITTEN; dog").classes == ("unicorn", "dog")


def test_a_background_takes_what_is_like_none_of_the_classes(checkpoint: Path) -> None:
    image = picture(32, 64)
    result = load(weights=checkpoint, background=True, threshold=0.4).segment(image, "cat; dog")
    maps = load(weights=checkpoint).segment(image, "cat; dog").score_maps(["cat", "dog"])
    np.testing.assert_array_equal(result.labels == 0, maps.max(0) <= 0.4)


def test_steps_are_an_option(checkpoint: Path) -> None:
    image = picture(32, 64)
    first, second = (load(weights=checkpoint, steps=steps).segment(image, "cat; dog") for steps in (1, 7))
    assert (first.scores != second.scores).any()
    with pytest.raises(ConfigError, match="flowseg.steps is 0; expected a whole number above 0"):
        load(weights=checkpoint, steps=0)


def test_another_method_s_weights_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="holds weights of flowseg; use --method flowseg"):
        freeda.load(method="odise", weights=checkpoint)


def test_a_large_image_s_sides_are_whole_patches(flowseg: FlowSeg) -> None:
    assert flowseg.method.prepare(picture(50, 100)).shape == (3, 32, 64)
    assert flowseg.method.prepare(picture(1, 1)).shape == (3, 32, 32)
    assert flowseg.method.prepare(picture(75, 50)).shape == (3, 48, 32)


def test_placed_by_their_names_other_classes_can_be_asked_for(tmp_path: Path) -> None:
    """Their centroids follow from CLIP as those in training did."""
    preset = load_preset("toy")
    data = TrainingScenes()
    options = {**TINY, "align_width": 0}
    training = build(preset, data, recipe="text", device=CPU, options=options)
    network = training.task.network
    assert isinstance(network, FlowNetwork) and network.centroids.shape == (38, 16)
    Checkpoint(
        method="flowseg",
        recipe="text",
        preset="toy",
        settings=training.settings,
        classes=tuple(item.names for item in data.classes),
        stuff=(),
        frozen=training.frozen,
    ).write(tmp_path, network)
    segmenter = load(weights=tmp_path)
    new = sorted(UNSEEN)
    vocabulary = segmenter.encode_classes([data.classes[3].name, *new])
    assert vocabulary.members[0] == (3,) and [m for (m,) in vocabulary.members[1:]] == list(range(38, 50))
    torch.testing.assert_close(vocabulary.centroids[:38], network.centroids)
    clip = load_clip(preset.model_ids("clip"), CPU)
    texts = TextSpace.of(clip, preset.segmentation.templates, data.classes)
    torch.testing.assert_close(vocabulary.centroids[38:], texts.place([ClassName(n) for n in new], 16))
    assert torch.pdist(vocabulary.centroids).min() > 0.05
    result = segmenter.segment(picture(32, 32), "owl; pig")
    assert result.paths == {"classes in training": 1, "other classes": 1}


def test_toy_training_shows_all_kinds_where_the_vocabulary_is_closed() -> None:
    from freeda.commands.train import _open_data

    assert len(_open_data("toyworld", None, closed=True).classes) == 50
    assert len(_open_data("toyworld", None, closed=False).classes) == 38


def test_other_templates_are_noticed(tmp_path: Path) -> None:
    """They would place classes that are asked for otherwise than those in training."""
    preset = load_preset("toy")
    data = TrainingScenes()
    training = build(preset, data, recipe="text", device=CPU, options=TINY)
    assert training.conditions["templates"] == preset.segmentation.templates
    checkpoint = Checkpoint(
        method="flowseg",
        recipe="text",
        preset="toy",
        settings=training.settings,
        classes=tuple(item.names for item in data.classes),
        stuff=(),
        frozen=training.frozen,
    )
    checkpoint.write(tmp_path, training.task.network)
    assert load(weights=tmp_path).identity["templates"] == preset.segmentation.templates
    other = replace(preset, segmentation=replace(preset.segmentation, templates=("one {} in the snow",)))
    with pytest.raises(ConfigError, match="was trained with other templates than preset 'toy' has"):
        load(weights=tmp_path, preset=other)


def test_a_classifier_in_one_step_is_used_as_one(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "weights", random_network(objective="cross-entropy"))
    assert load(weights=weights).method.settings.steps == 1
    assert load(weights=weights, steps=3).method.settings.steps == 3


def test_five_thousand_classes_fit(tmp_path: Path) -> None:
    """Scored in parts, they are what they are at once."""
    settings = NetworkSettings(**TINY)
    points = torch.from_numpy(place_centroids("golden", 5000, 3))
    network = random_network()
    large = FlowNetwork(settings, points)
    large.load_state_dict({**network.state_dict(), "centroids": points})
    names = [f"kind {number}" for number in range(5000)]
    checkpoint = Checkpoint(
        method="flowseg",
        recipe="labels",
        preset="toy",
        settings=asdict(settings),
        classes=tuple((name,) for name in names),
        stuff=(),
        frozen={},
    )
    checkpoint.write(tmp_path, large)
    segmenter = load(weights=tmp_path)
    image = picture(32, 40)
    result = segmenter.segment(image, names)
    (ends,) = segmenter.method.encode_images([segmenter.method.prepare(image)])
    distances = ((ends.numpy()[:, :, :, None] - points.numpy().T[:, None, None]) ** 2).sum(0)
    nearest = np.take_along_axis(distances, result.labels[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(nearest, distances.min(-1), atol=1e-4)
    expected = (1 / (distances + 1e-3)).max(-1) / (1 / (distances + 1e-3)).sum(-1)
    np.testing.assert_allclose(result.scores, expected, rtol=2e-2)


def test_half_precision_gives_nearly_the_same(checkpoint: Path) -> None:
    image = picture(40, 70)
    whole, half = (
        load(weights=checkpoint, precision=p).segment(image, "cat; dog; grass")
        for p in ("float32", "bfloat16")
    )
    assert (whole.labels == half.labels).mean() > 0.95


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"objective": "mse"}, "flowseg.objective is 'mse'; expected reshaped, plain, cross-entropy"),
        ({"centroids": "text"}, "centroids is 'text'; expected labels"),
        ({"heads": 5}, "flowseg.heads is 5; expected a divisor of the width"),
        ({"side": 100}, "flowseg.side is 100; expected a multiple of the patch, 8"),
        ({"align_weight": -1}, "align_weight is -1; expected 0 or more"),
        ({"align_width": 7}, "align_width is 7; expected 176, the backbone's, or 0"),
        ({"class_weight": "much"}, "class_weight is 'much'; expected 0 or more"),
        ({"pretrained": 1.1}, "pretrained is 1.1; expected 0 to 1"),
        ({"time_power": 0}, "time_power is 0; expected above 0"),
        ({"classifier": True, "class_weight": 0}, "classifier is True; expected False, for class_weight is"),
        ({"jitter": [2, 1]}, "jitter is .2, 1.; expected two numbers above 0"),
    ],
)
def test_bad_settings_are_refused(option: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(load_preset("toy"), TrainingScenes(), recipe="labels", device=CPU, options={**TINY, **option})


def test_a_range_of_scales_can_be_chosen() -> None:
    training = build(
        load_preset("toy"),
        TrainingScenes(),
        recipe="labels",
        device=CPU,
        options={**TINY, "jitter": [0.5, 1.5]},
    )
    assert training.conditions["jitter"] == (0.5, 1.5) and training.conditions["pretrained"] == 0.5


def test_the_full_size_is_the_large_model_s() -> None:
    """PixNerd-L: 22 blocks of width 1,024 on patches of 16, about 0.46 billion parameters."""
    with torch.device("meta"):
        network = FlowNetwork(NetworkSettings(align_width=0), torch.zeros(150, 3))
    count = sum(weight.numel() for weight in network.parameters())
    assert 4.4e8 < count < 4.8e8


def test_a_checkpoint_says_what_its_network_is(checkpoint: Path) -> None:
    found = Checkpoint.read(checkpoint, "flowseg")
    assert found.settings == asdict(random_network().settings) and found.classes == CLASSES
