from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import freeda
from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.methods import METHODS
from freeda.methods.base import Scores
from freeda.methods.segmenter import MethodSegmenter
from freeda.toyworld.make_examples import EXAMPLES


class Grouping:
    """Notes how many images it is given at once; scores the first class best everywhere."""

    identity, image_settings, background = {"method": "grouping"}, None, None

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.groups: list[int] = []

    def with_background(self, background: bool) -> Grouping:
        raise ConfigError("method grouping has no background")

    def encode_classes(self, classes: tuple[ClassName, ...]) -> int:
        return len(classes)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def encode_images(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        self.groups.append(len(images))
        return images

    def score(self, images: Sequence[np.ndarray], classes: int) -> list[Scores]:
        return [Scores(torch.arange(classes, 0, -1.0)[:, None, None].expand(classes, 2, 2))] * len(images)


def test_images_are_grouped_until_they_have_enough_parts() -> None:
    method = Grouping(batch=3)
    segmenter = MethodSegmenter(method, size_of=lambda image: image.shape[1] // 10)
    segmenter.set_classes("cat; dog")
    widths = (10, 10, 40, 10, 30, 10)
    images = [np.full((8, width, 3), number, np.uint8) for number, width in enumerate(widths)]
    results = list(segmenter.stream(images))
    assert method.groups == [3, 2, 1]
    assert [result.labels.shape for result in results] == [image.shape[:2] for image in images]
    assert all((result.labels == 0).all() for result in results)


def test_an_image_is_encoded_once_whatever_the_classes() -> None:
    method = Grouping(batch=4)
    segmenter = MethodSegmenter(method)
    one, other = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 4, 6), np.uint8).reshape(4, 16, 3)
    segmenter.segment([one, other], "cat")
    segmenter.segment([other, one.copy()], "cat; dog")
    assert method.groups == [2]
    method.image_settings = "others"
    segmenter.segment(one, "cat")
    assert method.groups == [2, 1]


def test_the_features_that_are_kept_are_bounded() -> None:
    method = Grouping(batch=1)
    images = [np.full((8, 8, 3), value, np.uint8) for value in range(5)]
    segmenter = MethodSegmenter(method, kept_bytes=2 * images[0].nbytes)
    for image in (*images, *images[3:], images[0]):
        segmenter.segment(image, "cat")
    assert len(method.groups) == 6  # the last two were known, the first was not any more
    assert segmenter._known.size == 2 * images[0].nbytes
    nothing = MethodSegmenter(method, kept_bytes=0)
    nothing.segment(images[0], "cat")
    nothing.segment(images[0], "cat")
    assert len(method.groups) == 8


def test_a_method_that_cannot_explain_says_so() -> None:
    segmenter = MethodSegmenter(Grouping(batch=1))
    assert not segmenter.explains
    with pytest.raises(freeda.FreedaError, match="cannot be explained"):
        segmenter.segment(np.zeros((4, 4, 3), np.uint8), "cat").explain(1, 1)


def test_a_segmenter_says_why_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled, for it holds models; call freeda.load"):
        pickle.dumps(MethodSegmenter(Grouping(batch=1)))


def test_unknown_methods_and_settings_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown method 'magic'; expected one of freeda, diffsegmenter"):
        freeda.load(method="magic")
    with pytest.raises(
        ConfigError, match="method freeda has no option or setting 'timestep'; its settings are .*neighbors"
    ):
        freeda.load(timestep=3)
    with pytest.raises(ConfigError, match="method diffsegmenter has no option or setting 'index'"):
        freeda.load("toy", method="diffsegmenter")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_identity_names_it(method: str) -> None:
    assert freeda.load(method=method).identity["method"] == method


def test_options_that_are_none_are_left_out() -> None:
    assert freeda.load(recipe=None, neighbors=None, pamr=2).identity["pamr"] == 2


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_models_are_those_of_the_index_and_agree_nearly(method: str) -> None:
    plain = freeda.load(method=method, device="cpu", precision="float32")
    short = freeda.load(method=method, device="cpu", precision="bfloat16", threads=1, batch=2)
    assert (plain.identity["precision"], short.identity["precision"]) == ("float32", "bfloat16")
    image = EXAMPLES / "scene-1.png"
    results = [segmenter.segment(image, "hammer; sky; sand; owl") for segmenter in (plain, short)]
    assert (results[0].labels == results[1].labels).mean() > 0.9
    assert not np.array_equal(results[0].scores, results[1].scores)


@pytest.mark.parametrize("method", METHODS)
def test_options_of_the_runtime_are_checked(method: str) -> None:
    with pytest.raises(ConfigError, match="precision is 'float8'; expected auto, float32, float16, bfloat16"):
        freeda.load(method=method, precision="float8")
    with pytest.raises(ConfigError, match="threads is -1; expected a whole number, 0 or more"):
        freeda.load(method=method, threads=-1)
    with pytest.raises(ConfigError, match=r"batch is 0; expected .*whole number above 0"):
        freeda.load(method=method, batch=0)


OTHERS = {
    "templates": ["a {}"],
    "background_concepts": ["sky"],
    "prompt": "a {}",
    "superpixels.algorithm": "felzenszwalb",
}
OTHERS |= {"pooling": "area", "retrieval": "region", "resizing": "plain", "synonyms": False}
OTHERS |= {"metric": "cosine"}
OTHERS |= {"stuff": ["sky"]}
OTHERS |= {("freeda", "background"): 0.3, "prompts": "single", "grid_weights": [0.2, 0.3, 0.4, 0.5]}


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_can_be_set_by_name(method: str) -> None:
    before = dict(_flat(freeda.load(method=method, background=True).method.settings))
    names = {"background": "threshold"}
    for field, value in before.items():
        changed = OTHERS.get((method, field), OTHERS.get(field, value))
        if not isinstance(value, tuple | str | None) and not isinstance(value, bool):
            changed = value / 2 if isinstance(value, float) else value + 1
        loaded = freeda.load(method=method, background=True, **{names.get(field, field): changed})
        expected = tuple(changed) if isinstance(changed, list) else changed
        assert dict(_flat(loaded.method.settings)) == {**before, field: expected}, field


def _flat(record: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for item in fields(record):
        value = getattr(record, item.name)
        if is_dataclass(value):
            yield from _flat(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


@pytest.mark.parametrize("method", METHODS)
def test_background_is_on_or_off_and_its_score_is_the_threshold(method: str) -> None:
    assert freeda.load(method=method, background=True, threshold=0.25).method.background == 0.25
    assert freeda.load(method=method, threshold=0.25).method.background is None
    with pytest.raises(
        ConfigError, match="background is 0.9; expected True or False; its score is `threshold`"
    ):
        freeda.load(method=method, background=0.9)


def test_tables_of_unknown_methods_are_refused() -> None:
    toy = freeda.load_preset("toy")
    with pytest.raises(ConfigError, match=r"table \[methods.difsegmenter\] is 'difsegmenter'; expected"):
        freeda.load(method="diffsegmenter", preset=replace(toy, methods={"difsegmenter": {}}))
    with pytest.raises(ConfigError, match=r"has \[methods.freeda\]; its table is \[segmentation\]"):
        freeda.load(preset=replace(toy, methods={"freeda": {}}))


@pytest.mark.parametrize(
    ("method", "setting"), [("freeda", "local_weight"), ("diffsegmenter", "presence"), ("odise", "overlap")]
)
def test_settings_that_are_no_numbers_are_refused(method: str, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is 'abc'; expected between 0 and 1"):
        freeda.load(method=method, **{setting: "abc"})


@pytest.mark.parametrize("method", METHODS)
def test_models_that_need_no_classes_see_an_image_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = freeda.load(method=method)
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    fresh = freeda.load(method=method).segment(image, "dog; sand")
    segmenter.segment(image, "cat; grass")

    def seen(*_: object, **__: object) -> None:
        raise AssertionError("a model saw the image again")

    if method == "flowseg":
        monkeypatch.setattr(type(segmenter.method.network), "forward", seen)
    else:
        monkeypatch.setattr(type(segmenter.method.clip), "embed_images", seen)
    if method == "freeda":
        monkeypatch.setattr(type(segmenter.method.backbone), "dense_features", seen)
    again = segmenter.segment(image, "dog; sand")
    np.testing.assert_array_equal(again.labels, fresh.labels)
    np.testing.assert_allclose(again.scores, fresh.scores, rtol=1e-5)
    if segmenter.explains:
        assert again.explain(5, 5).candidates
    if method == "digseg":  # no setting of it changes what is kept of an image
        return
    change = {
        "freeda": {"dense_size": 128},
        "diffsegmenter": {"seed": 128},
        "odise": {"clip_scale": 1.5},
        "flowseg": {"steps": 3},
    }[method]
    segmenter.method.settings = replace(segmenter.method.settings, **change)
    with pytest.raises(AssertionError, match="saw the image again"):
        segmenter.segment(image, "dog; sand")


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_with_a_background_has_the_same_models_and_results(method: str) -> None:
    plain = freeda.load(method=method)
    asked = plain.with_background(True)
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    expected = freeda.load(method=method, background=True).segment(image, "dog; sand")
    found = asked.segment(image, "dog; sand")
    assert found.classes == expected.classes == ("background", "dog", "sand")
    np.testing.assert_array_equal(found.labels, expected.labels)
    model = "network" if method == "flowseg" else "clip"
    assert getattr(asked.method, model) is getattr(plain.method, model)
    if plain.explains:
        names = [item.name for item in found.explain(5, 5).candidates]
        assert set(names) - {"dog", "sand"}, "other nouns compete"
    assert plain.segment(image, "dog; sand").classes == ("dog", "sand")
    with pytest.raises(ConfigError, match="background is 0.4; expected True or False"):
        plain.with_background(0.4)
