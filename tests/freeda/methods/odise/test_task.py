"""What ODISE is taught: targets hold what the data show and nothing else; the losses can be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from freeda.class_names import ClassName
from freeda.errors import ConfigError, TrainingError
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.grounding import draw_nouns, grounding_loss
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.odise.task import OdiseTask
from freeda.methods.odise.training import build
from freeda.methods.trained_weights import split_settings
from freeda.presets import load_preset
from freeda.presets.settings import Preset
from freeda.presets.toml import changed
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage
from freeda.segmentation.views import random_view
from freeda.toyworld.split import UNSEEN, TrainingScenes
from freeda.training.loop import fit
from tests.freeda.methods.odise.conftest import CPU, TINY

CLASSES = (ClassName("cat", ("kitten",)), ClassName("grass"))


@dataclass(frozen=True)
class Given:
    """A set of images made by hand."""

    images: Sequence[AnnotatedImage]
    classes: tuple[ClassName, ...] = CLASSES
    things: frozenset[int] = frozenset({0})
    identity: Mapping[str, str | int] = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def annotated(self, number: int) -> AnnotatedImage:
        return self.images[number]


def marked(*boxes: tuple[int, int, int, int], side: int = 64, nouns: tuple[str, ...] = ()) -> AnnotatedImage:
    """Rectangles (top, left, height, width), in turn a cat and grass."""
    segments = np.full((side, side), UNMARKED, np.int32)
    for number, (top, left, height, width) in enumerate(boxes):
        segments[top : top + height, left : left + width] = number
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    labels = tuple(number % 2 for number in range(len(boxes)))
    return AnnotatedImage(image, segments, labels, nouns=nouns)


def task(frozen: FrozenModels, images: Sequence[AnnotatedImage], **options: object) -> OdiseTask:
    settings = NetworkSettings(**TINY)
    network = new_network(frozen, settings)
    return OdiseTask(frozen, network, settings, Given(images), templates=["a {}"], **options)  # type: ignore[arg-type]


def loss_of(made: OdiseTask, *numbers: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return made.loss(np.array(numbers), np.random.default_rng(seed), 0.0)


def test_no_training_target_is_unseen() -> None:
    scenes = TrainingScenes()
    names = {name for item in scenes.classes for name in item.names}
    assert len(scenes.classes) == 38 and not names & UNSEEN
    assert sum(number in scenes.things for number in range(38)) == 30
    for number in range(60):
        item = scenes.annotated(number)
        assert set(np.unique(item.segments)) == set(range(len(item.labels)))
        assert not any(kind in item.caption.split() for kind in UNSEEN)
    assert np.array_equal(scenes.annotated(7).image, scenes.annotated(7).image)


def test_scenes_are_not_those_of_the_frozen_models() -> None:
    from freeda.toyworld.scenes import draw_scene, scene_rng

    first = TrainingScenes().annotated(0).image
    tries = [draw_scene(scene_rng("train", 24_000 + n * 1_000_000), 128).image for n in range(20)]
    assert any(np.array_equal(first, image) for image in tries)


def test_segments_below_a_cell_crowds_and_empty_images_are_left_out(frozen: FrozenModels) -> None:
    """The tiny network's finest stride is 4: a segment of 15 pixels cannot be drawn."""
    whole, small, empty = marked((0, 0, 40, 40)), marked((0, 0, 40, 40), (50, 50, 3, 5)), marked()
    made = task(frozen, [whole, small, empty])
    assert len(made._targets(small).labels) == 1
    crowd = replace(marked((0, 0, 40, 40), (50, 50, 9, 9)), crowds=frozenset({0}))
    assert made._targets(crowd).labels.tolist() == [1] and made._targets(crowd).masks.sum() == 81
    assert loss_of(made, 0) > 0
    torch.testing.assert_close(loss_of(made, 0), loss_of(made, 0))
    zero = loss_of(made, 2)
    zero.backward()
    assert zero.item() == 0 and all(w.grad is not None for w in made.network.parameters())


def test_data_without_anything_to_learn_is_told(frozen: FrozenModels) -> None:
    made = task(frozen, [marked()])
    many = [0] * 100
    for _ in range(9):
        assert loss_of(made, *many) == 0 and np.isnan(made.figures["mask"])
    with pytest.raises(TrainingError, match="1,000 images in a row show none of the classes"):
        loss_of(made, *many)


def test_losses_are_means_over_the_masks(frozen: FrozenModels) -> None:
    """Of two identical images they are what they are of one, but for the points that are drawn."""
    made = task(frozen, [marked((0, 0, 30, 30), (30, 0, 34, 64))], points=4096)
    for name in ("mask", "dice", "cross_entropy"):
        loss_of(made, 0)
        one = made.figures[name]
        loss_of(made, 0, 0)
        assert made.figures[name] == pytest.approx(one, rel=0.25) and one > 0


def test_captions_that_tell_nothing_are_noticed(frozen: FrozenModels) -> None:
    made = task(frozen, [marked((0, 0, 30, 30))], recipe="captions")
    made._silent.count(998, empty=True)
    loss_of(made, 0)
    with pytest.raises(TrainingError, match="1,000 images in a row have no two captions with nouns"):
        loss_of(made, 0)


def test_every_trained_weight_gets_a_gradient(frozen: FrozenModels) -> None:
    made = task(frozen, [marked((0, 0, 30, 30), (30, 0, 34, 64))])
    with torch.no_grad():
        made.network.captioner.text_gate.fill_(0.1)  # type: ignore[union-attr]
        made.network.captioner.time_gate.fill_(0.1)  # type: ignore[union-attr]
    loss_of(made, 0).backward()
    lacking = [name for name, w in made.network.named_parameters() if w.grad is None or not w.grad.any()]
    assert not lacking
    assert made.network.captioner.text_gate.grad.abs() > 0  # type: ignore[union-attr]


def test_figures_tell_every_loss(frozen: FrozenModels) -> None:
    made = task(frozen, [marked((0, 0, 30, 30), (30, 0, 34, 64))])
    total = loss_of(made, 0).item()
    figures = made.figures
    parts = 2 * figures["cross_entropy"] + 5 * figures["mask"] + 5 * figures["dice"]
    assert total == pytest.approx(parts, rel=1e-5)
    assert 0 <= figures["queries_with_a_class"] <= 1


def test_captions_teach_no_class_but_nouns(frozen: FrozenModels) -> None:
    images = [marked((0, 0, 40, 40), nouns=("cat",)), marked((8, 8, 40, 40), nouns=("dog", "grass"))]
    made = task(frozen, images, recipe="captions")
    assert made._texts.count == 1 and set(made._targets(images[0]).labels.tolist()) == {0}
    both = loss_of(made, 0, 1)
    assert made.figures["grounding"] > 0
    without = task(frozen, [replace(item, nouns=()) for item in images], recipe="captions")
    assert loss_of(without, 0, 1) < both and np.isnan(without.figures["grounding"])


def test_images_without_nouns_tell_the_captions_nothing(frozen: FrozenModels) -> None:
    images = [marked((0, 0, 40, 40), nouns=("cat",)), marked((0, 0, 9, 9)), marked((8, 8, 40, 40))]
    images[2] = replace(images[2], nouns=("dog",))
    made = task(frozen, images, recipe="captions")
    loss_of(made, 0, 1, 2)
    among_three = made.figures["grounding"]
    loss_of(made, 0, 2)
    assert made.figures["grounding"] == pytest.approx(
        among_three, rel=0.02
    )  # three would give log 3, not log 2


def test_captions_are_told_from_those_of_all_processes(
    frozen: FrozenModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two other images from elsewhere, telling two apart is as hard as telling four."""
    images = [marked((0, 0, 40, 40), nouns=("cat",)), marked((8, 8, 40, 40), nouns=("dog",))]
    made = task(frozen, images, recipe="captions")
    loss_of(made, 0, 1)
    alone = made.figures["grounding"]
    monkeypatch.setattr(
        "freeda.methods.odise.task.gathered", lambda values: torch.cat([values, values.flip(0).detach()])
    )
    loss_of(made, 0, 1)
    assert made.figures["grounding"] == pytest.approx(2 * alone, rel=0.05)  # log 4 in place of log 2


def test_the_grounding_loss_is_smallest_where_captions_belong_to_their_images() -> None:
    right = torch.zeros(3, 4, 3, 8)
    for number in range(3):
        right[number, number, number] = 6.0
    wrong = right.roll(1, 0)
    assert grounding_loss(right) < 0.1 < 2 < grounding_loss(wrong)
    similarity = torch.randn(3, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    present = np.zeros((3, 3))
    for image in range(3):
        for caption in range(3):
            one = similarity[image, :, caption].double().numpy()
            weights = np.exp(one) / np.exp(one).sum(0)
            present[image, caption] = (weights * one).sum(0).mean()
    rows = -np.log(np.exp(present.diagonal()) / np.exp(present).sum(1)).mean()
    columns = -np.log(np.exp(present.diagonal()) / np.exp(present).sum(0)).mean()
    assert grounding_loss(similarity).item() == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_nouns_are_drawn_with_replacement() -> None:
    drawn = draw_nouns(("a", "b", "c"), np.random.default_rng(0))
    assert len(drawn) == 8 and set(drawn) <= {"a", "b", "c"}
    assert draw_nouns((), np.random.default_rng(0)) == []


@pytest.mark.parametrize("size", [(100, 60), (30, 200), (1, 1), (64, 64)])
def test_views_are_squares_of_the_image_and_of_its_segments_alike(size: tuple[int, int]) -> None:
    """The image holds each pixel's segment number as its colour: they stay together."""
    rng = np.random.default_rng(0)
    segments = (np.arange(size[0] * size[1]).reshape(size) * 4 // (size[0] * size[1])).astype(np.int32)
    image = np.repeat((50 * segments[..., None] + 10).astype(np.uint8), 3, 2)
    item = AnnotatedImage(image, segments, (0, 1, 0, 1))
    for _ in range(20):
        view = random_view(item, 64, (0.3, 2.0), rng)
        assert view.image.shape == (64, 64, 3) and view.segments.shape == (64, 64)
        inside = view.segments != UNMARKED
        assert inside.any() and (view.image[~inside] == 0).all()
        agree = np.abs(view.image[inside][:, 0].astype(int) - (50 * view.segments[inside] + 10)) < 20
        assert agree.mean() > 0.6 or inside.sum() < 500  # blended borders are all there is of a few pixels


def test_without_jitter_a_view_is_the_image_or_its_mirror() -> None:
    item, rng = marked((0, 0, 30, 40)), np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        view = random_view(item, 64, (1.0, 1.0), rng)
        plain = np.array_equal(view.image, item.image)
        mirror = np.array_equal(view.image, item.image[:, ::-1])
        assert plain != mirror
        assert np.array_equal(view.segments, item.segments if plain else item.segments[:, ::-1])
        seen.add(plain)
    assert seen == {True, False}


def test_one_batch_can_be_learnt_by_heart(tmp_path) -> None:
    """On the toy models: two scenes, until nearly every pixel has its class."""
    preset = load_preset("toy")
    small = {"width": 64, "tap_width": 64, "feedforward": 128, "encoder_feedforward": 64}
    fewer = {"encoder_layers": 1, "decoder_layers": 1, "queries": 8}
    usual, _ = split_settings(preset, "odise", NetworkSettings)
    settings = changed(NetworkSettings(), {**usual, **small, **fewer}, "test")
    frozen = load_frozen(preset, settings, CPU, torch.float32)
    scenes = TrainingScenes(count=2)
    preset = replace(preset, methods={"odise": {**preset.methods["odise"], **small, **fewer}})
    training = build(preset, scenes, recipe="labels", device=CPU, options={"learning_rate": 4e-3})
    plan = replace(training.plan, steps=40, batch=2, warmup=5, ema_decay=0.9)
    fit(training.task, 2, plan, tmp_path, CPU)
    hits = pixels = 0
    for number in range(2):
        item = scenes.annotated(number)
        image = torch.from_numpy(item.image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            queries = training.task.network(frozen, image, CropGrid(1, 1, 128, 128))[-1]
        logits = training.task._logits(queries)[0].softmax(-1)[:, :-1]  # type: ignore[attr-defined]
        scores = torch.einsum("qc,qhw->chw", logits, queries.masks[0].sigmoid())
        labels = torch.nn.functional.interpolate(scores[None], (128, 128), mode="bilinear")[0].argmax(0)
        hits += int((labels.numpy() == np.array(item.labels)[item.segments]).sum())
        pixels += labels.numel()
    assert hits / pixels > 0.95


def test_options_that_cannot_work_are_refused(odise_preset: Preset) -> None:
    data = Given([marked((0, 0, 40, 40))])
    for options, message in (
        ({"queries": 0}, "queries is 0"),
        ({"width": 100}, "width is 100; expected a multiple of 32"),
        ({"heads": 3}, "heads is 3; expected a divisor of the width, 32"),
        ({"side": 100}, "side is 100; expected such as 128"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0; expected above 0"),
        ({"ema_decay": 2.0}, "ema_decay is 2.0; expected at least 0 and below 1"),
        ({"warmup": 0}, "warmup is 0; expected a whole number above 0"),
        ({"jitter": [2, 1]}, "jitter is .2, 1."),
        ({"speed": 3}, "no option or setting 'speed'"),
        ({"taps": ["unet.nothing.1"]}, "no block 'unet.nothing.1'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(odise_preset, data, recipe="labels", device=CPU, options=options)
    with pytest.raises(ConfigError, match="recipe is 'pictures'; expected labels or captions"):
        build(odise_preset, data, recipe="pictures", device=CPU, options={})


def test_kinds_too_few_to_draw_scenes_of_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeda.toyworld.split._TRIES", 3)
    with pytest.raises(ConfigError, match="none of 3 scenes shows only the 2 kinds that are seen; name more"):
        TrainingScenes.showing(frozenset({"cat", "grass"}))
    with pytest.raises(ConfigError, match="no kind 'unicorn' in the toy world"):
        TrainingScenes.showing(frozenset({"unicorn"}))
    with pytest.raises(ConfigError, match="need a kind of thing and a kind of stuff"):
        TrainingScenes.showing(frozenset({"cat"}))
