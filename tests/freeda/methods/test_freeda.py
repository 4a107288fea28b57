from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from freeda.class_names import ClassName
from freeda.errors import ClassNamesError, ConfigError, ImageError, IndexMismatchError
from freeda.index.editing import leave_out
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import FreedaSegmenter, load
from freeda.methods.freeda.concepts import USUAL_CONCEPTS
from freeda.methods.freeda.explain import explain
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.backbone import Backbone, load_backbone
from freeda.models.clip import ClipModel, load_clip
from freeda.presets.settings import Preset
from freeda.records import Regions
from freeda.segmentation.pamr import pamr
from tests.freeda.material import changed_copy
from tests.freeda.methods.contract import MethodContract, picture

CPU = torch.device("cpu")


class TestFreeda(MethodContract):
    @pytest.fixture
    def segmenter(self, index_folder: Path) -> FreedaSegmenter:
        return load(index_folder)


def load_models(preset: Preset) -> tuple[ClipModel, Backbone]:
    return load_clip(preset.model_ids("clip"), CPU), load_backbone(preset.model_ids("backbone"), CPU)


def half_regions(image: np.ndarray, config: object) -> Regions:
    labels = np.zeros(image.shape[:2], np.int32)
    labels[:, image.shape[1] // 2 :] = 1
    return Regions(labels)


def test_a_window_s_scores_follow_the_paper(index_folder: Path, tiny_preset: Preset) -> None:
    index = PrototypeIndex.open(index_folder)
    clip, backbone = load_models(tiny_preset)
    method = FreedaMethod(index, clip, backbone, index.preset.segmentation, find_regions=half_regions)
    segmenter = MethodSegmenter(method)
    classes = (ClassName("cat"), ClassName("dog"))
    pixels = picture(56, 56)
    found = segmenter.method.score_image(pixels, segmenter.encode_classes(classes)).double().numpy()

    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    texts = clip.embed_classes(classes, index.preset.segmentation.templates).astype(np.float64)
    keys = np.stack([index.keys.reconstruct(n) for n in range(60)]).astype(np.float64)
    vectors = index.vectors(range(60)).astype(np.float64)
    nearest = np.argsort(-(texts @ keys.T), axis=1)[:, :3]
    prototypes = vectors[nearest].mean(1)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    dense = backbone.dense_features(image, 56)[0].double().numpy()
    with torch.no_grad():
        resized = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        whole = clip.network.encode_image((resized - 0.48) / 0.27)[0].double().numpy()
    similarity = texts @ (whole / np.linalg.norm(whole))
    for side, columns in ((0, slice(0, 2)), (1, slice(2, 4))):
        region = dense[:, :, columns].mean((1, 2))
        cosine = prototypes @ region / np.linalg.norm(region)
        expected = 0.8 / (1 + np.exp(-cosine)) + 0.2 * similarity
        np.testing.assert_allclose(found[:, 30, 10 + 30 * side], expected, rtol=1e-5, atol=1e-6)


def test_superpixels_merge_by_their_features(index_folder: Path, tiny_preset: Preset) -> None:
    index = PrototypeIndex.open(index_folder)
    clip, backbone = load_models(tiny_preset)
    pixels = picture(56, 56)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    dense = backbone.dense_features(image, 56)[0].double()
    first, second = dense[:, ::2].mean((1, 2)), dense[:, 1::2].mean((1, 2))
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))

    def stripes(image: np.ndarray, config: object) -> Regions:
        rows = np.arange(56, dtype=np.int32) // 14 % 2
        return Regions(np.repeat(rows[:, None], 56, axis=1))

    for above, expected in ((cosine - 1e-3, 1), (cosine + 1e-3, 2)):
        config = replace(index.preset.segmentation, merge_above=above)
        method = FreedaMethod(index, clip, backbone, config, find_regions=stripes)
        segmenter = MethodSegmenter(method, explain=explain)
        result = segmenter.segment(pixels, "cat;dog")
        assert result.paths["regions pooled"] == expected
        assert result.explain(5, 5).region.mean() == 1 / expected
        assert np.unique(method.score_image(pixels, segmenter.encode_classes("cat"))).size == expected


def test_overlapping_windows_are_averaged(index_folder: Path, tiny_preset: Preset) -> None:
    segmenter = load(index_folder)
    vocabulary = segmenter.encode_classes("cat;dog")
    pixels = picture(56, 100)
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    total, visits = np.zeros((2, 56, 100)), np.zeros(100)
    for left in (0, 28, 44):
        window = (image[:, :, left : left + 56].permute(1, 2, 0) * 255).round().byte().numpy()
        total[:, :, left : left + 56] += segmenter.method.score_image(window, vocabulary).numpy()
        visits[left : left + 56] += 1
    np.testing.assert_allclose(segmenter.method.score_image(pixels, vocabulary), total / visits, rtol=1e-5)


def test_batches_and_threads_change_nothing(index_folder: Path) -> None:
    images = [picture(56, 60), picture(90, 56), picture(56, 200), picture(3, 2), picture(56, 60)]
    one_by_one = load(index_folder)
    one_by_one.method.batch = one_by_one.threads = 1
    one_by_one.set_classes("cat;dog;sky")
    together = load(index_folder)
    together.method.batch, together.threads = 5, 3
    together.set_classes("cat;dog;sky")
    for alone, result in zip([one_by_one.segment(i) for i in images], together.stream(images), strict=True):
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-5)
        assert (result.labels == alone.labels).mean() > 0.999
        assert result.paths == alone.paths


def test_images_are_grouped_by_their_windows(index_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = load(index_folder)
    segmenter.method.batch = 3
    segmenter.set_classes("cat;dog")
    groups: list[int] = []
    score = segmenter.method.score

    def noted(images, classes):
        groups.append(len(images))
        return score(images, classes)

    monkeypatch.setattr(segmenter.method, "score", noted)
    list(segmenter.stream([picture(56, width) for width in (56, 56, 112, 56)]))  # 1, 1, 3 and 1 windows
    assert groups == [3, 1]


def test_an_unreadable_image_stops_nobody(index_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    segmenter = load(index_folder)
    segmenter.set_classes("cat;dog")
    images = [picture(56, 60), broken, picture(70, 56)]
    with pytest.raises(ImageError):
        segmenter.segment(images)
    failed = []
    results = list(segmenter.stream(images, on_error=lambda image, error: failed.append((image, error))))
    assert [result.labels.shape for result in results] == [(56, 60), (70, 56)]
    assert failed[0][0] == broken
    assert isinstance(failed[0][1], ImageError)


def test_images_are_read_only_a_little_ahead(index_folder: Path) -> None:
    segmenter = load(index_folder)
    segmenter.method.batch, segmenter.threads = 1, 2
    segmenter.set_classes("cat;dog")
    asked = []

    def images():
        for number in range(50):
            asked.append(number)
            yield picture(56, 56)

    results = segmenter.stream(images())
    next(results)
    assert len(asked) <= 1 + 2 * 2
    results.close()


def test_pamr_refines_every_window(index_folder: Path) -> None:
    segmenter = load(index_folder)
    vocabulary = segmenter.encode_classes("cat;dog")
    plain = segmenter.method.score_image(picture(56, 56), vocabulary)
    segmenter.method.settings = replace(segmenter.method.settings, pamr=3)
    image = torch.from_numpy(picture(56, 56)).permute(2, 0, 1).float() / 255
    refined = segmenter.method.score_image(picture(56, 56), vocabulary)
    np.testing.assert_allclose(refined, pamr(plain, image, 3), rtol=1e-5)
    assert not torch.allclose(refined, plain)


def test_unknown_recipe_is_named(index_folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'papre'; expected one of default, paper"):
        load(index_folder, recipe="papre")


def test_background_takes_what_scores_below_it(index_folder: Path) -> None:
    segmenter = load(index_folder, background=True, background_concepts="none", threshold=0.0)
    segmenter.method.settings = replace(segmenter.method.settings, background=2.0)
    result = segmenter.segment(picture(56, 56), "cat;dog")
    assert result.classes == ("background", "cat", "dog")
    assert (result.labels == 0).all()
    assert (result.score_maps(["background"]) == 2.0).all()
    segmenter.method.settings = replace(segmenter.method.settings, background=-2.0)
    assert (segmenter.segment(picture(56, 56), "cat;dog").labels > 0).all()
    with pytest.raises(ClassNamesError, match="'background' is named"):
        segmenter.segment(picture(56, 56), "cat;Background")


def test_background_concepts_compete_as_classes_do(index_folder: Path) -> None:
    named = load(index_folder).segment(picture(56, 56), "cat;dog;clock;sky")
    segmenter = load(index_folder, background_concepts="Cat; clock; sky", background=True)
    segmenter.method.settings = replace(segmenter.method.settings, background=-2.0)
    assert segmenter.encode_classes("cat;dog").concepts == ("clock", "sky")
    result = segmenter.segment(picture(56, 56), "cat;dog")
    assert result.classes == ("background", "cat", "dog")
    np.testing.assert_array_equal(result.labels, np.array([1, 2, 0, 0])[named.labels])
    np.testing.assert_allclose(result.scores, named.scores, rtol=1e-5)
    assert set(np.unique(result.labels)) == {0, 1}
    rivals = named.score_maps(["clock", "sky"]).max(0)
    np.testing.assert_allclose(result.score_maps(["background"])[0], rivals, atol=1e-5)
    np.testing.assert_allclose(result.score_maps(["dog"]), named.score_maps(["dog"]), atol=1e-5)


def test_background_concepts_by_name(index_folder: Path, tiny_preset: Preset) -> None:
    chosen = replace(tiny_preset.segmentation, background_concepts=("sky", "grass"))
    preset = replace(tiny_preset, segmentation=chosen)

    def concepts(background: bool, given: str | None) -> list[str]:
        given_concepts = {} if given is None else {"background_concepts": given}
        segmenter = load(index_folder, preset=preset, background=background, **given_concepts)
        return list(segmenter.encode_classes("cat; dog").concepts)

    assert concepts(True, None) == ["sky", "grass"]
    assert concepts(False, None) == []
    assert concepts(True, "wall; road,street") == ["wall", "road", "street"]
    assert concepts(True, "usual") == list(USUAL_CONCEPTS)
    with pytest.raises(ConfigError, match="neither concepts nor a score tell the background"):
        concepts(True, "none")
    assert (
        load(index_folder, background=True, background_concepts="none", threshold=0.1)
        .encode_classes("cat")
        .concepts
        == ()
    )
    with pytest.raises(ConfigError, match="no background is asked for; add background"):
        concepts(False, "sky")


def test_a_region_that_is_not_finite_stays_undecided(index_folder: Path) -> None:
    segmenter = load(index_folder)
    plain = segmenter.method.settings
    for changes in ({}, {"metric": "whitened"}, {"retrieval": "region", "region_neighbors": 3}):
        segmenter.method.settings = replace(plain, **changes)
        vocabulary = segmenter.encode_classes("cat;dog")
        features = torch.zeros(2, vocabulary.prototypes.shape[1])
        features[0] = 1.0
        features[1, 3] = float("nan")
        scores = segmenter.method.local_scores(features, vocabulary)
        assert torch.isfinite(scores[0]).all()
        assert torch.isnan(scores[1]).all()


def test_regions_retrieve_the_keys_of_what_they_look_like(index_folder: Path) -> None:
    segmenter = load(index_folder)
    changes = {"retrieval": "region", "region_neighbors": 4, "local_weight": 1.0}
    segmenter.method.settings = replace(segmenter.method.settings, **changes)
    segmenter.method.find_regions = half_regions
    vocabulary = segmenter.encode_classes("cat;dog")
    found = segmenter.method.score_image(picture(56, 56), vocabulary).double().numpy()

    index = segmenter.method.index
    vectors = index.vectors(range(60)).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = np.stack([index.keys.reconstruct(n) for n in range(60)]).astype(np.float64)
    image = torch.from_numpy(picture(56, 56)).permute(2, 0, 1)[None].float() / 255
    dense = segmenter.method.backbone.dense_features(image, 56)[0].double().numpy()
    for side, columns in ((0, slice(0, 2)), (1, slice(2, 4))):
        region = dense[:, :, columns].mean((1, 2))
        nearest = np.argsort(-(vectors @ region))[:4]
        key = keys[nearest].mean(0)
        cosine = vocabulary.texts.double().numpy() @ key / np.linalg.norm(key)
        expected = 1 / (1 + np.exp(-cosine))
        np.testing.assert_allclose(found[:, 30, 10 + 30 * side], expected, rtol=1e-4)
    votes = segmenter.segment(picture(56, 56), "cat;dog").explain(10, 30).votes
    region = dense[:, :, 0:2].mean((1, 2))
    ids = [index.rows([n], ["id"])[0]["id"] for n in np.argsort(-(vectors @ region))[:4]]
    assert [vote.id for vote in votes] == ids


def test_whitened_features_are_compared_by_fisher_s_discriminant(index_folder: Path) -> None:
    segmenter = load(index_folder)
    changes = {"metric": "whitened", "shrinkage": 0.2, "local_weight": 1.0, "neighbors": 5}
    segmenter.method.settings = replace(segmenter.method.settings, **changes)
    segmenter.method.find_regions = half_regions
    vocabulary = segmenter.encode_classes("cat;dog")
    found = segmenter.method.score_image(picture(56, 56), vocabulary).double().numpy()

    index = segmenter.method.index
    vectors, nouns = index.vectors(range(60)).astype(np.float64), np.array(list(index.column("noun")))
    apart = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = apart.mean(0)
    for noun in set(nouns):
        apart[nouns == noun] -= apart[nouns == noun].mean(0)
    spread = apart.T @ apart / (len(nouns) - len(set(nouns)))
    assert len(nouns) - len(set(nouns)) >= len(spread)
    spread += 0.2 * np.trace(spread) / len(spread) * np.eye(len(spread))

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        one, other = (part / np.linalg.norm(part) - mean for part in (one, other))
        dots = [a @ np.linalg.solve(spread, b) for a, b in ((one, other), (one, one), (other, other))]
        return dots[0] / np.sqrt(dots[1] * dots[2])

    image = torch.from_numpy(picture(56, 56)).permute(2, 0, 1)[None].float() / 255
    dense = segmenter.method.backbone.dense_features(image, 56)[0].double().numpy()
    for row, rows in enumerate(vocabulary.retrieved.rows):
        prototype = vectors[rows[rows >= 0]].mean(0)
        for x, columns in ((10, slice(0, 2)), (40, slice(2, 4))):
            expected = 1 / (1 + np.exp(-cosine(dense[:, :, columns].mean((1, 2)), prototype)))
            np.testing.assert_allclose(found[row, 30, x], expected, rtol=1e-4)
    (vote, *_) = segmenter.segment(picture(56, 56), "cat;dog").explain(10, 30).votes
    expected = cosine(dense[:, :, 0:2].mean((1, 2)), vectors[vote.row])
    assert vote.visual_similarity == pytest.approx(expected, abs=1e-3)


def test_an_index_of_single_prototypes_is_compared_by_cosine_and_says_so(
    index_folder: Path, tmp_path: Path
) -> None:
    index, seen = PrototypeIndex.open(index_folder), set[str]()
    repeated = [row for row, noun in enumerate(index.column("noun")) if noun in seen or seen.add(noun)]
    leave_out(index, tmp_path / "single", rows=repeated)
    segmenter = load(tmp_path / "single")
    segmenter.method.settings = replace(segmenter.method.settings, metric="whitened")
    whitened = segmenter.segment(picture(56, 56), "cat;dog")
    (told,) = [name for name in whitened.paths if "no noun of the index has two prototypes" in name]
    assert whitened.paths[told] == whitened.paths["regions pooled"]
    segmenter.method.settings = replace(segmenter.method.settings, metric="cosine")
    plain = segmenter.segment(picture(56, 56), "cat;dog")
    np.testing.assert_array_equal(whitened.labels, plain.labels)
    assert told not in plain.paths


def test_other_models_are_refused(index_folder: Path, tiny_preset: Preset, tmp_path: Path) -> None:
    index = PrototypeIndex.open(index_folder)
    _, backbone = load_models(tiny_preset)
    clip = load_clip(
        [str(changed_copy(Path(tiny_preset.model_ids("clip")[0]), tmp_path / "clip"))], backbone.device
    )
    with pytest.raises(IndexMismatchError, match="another clip model"):
        FreedaMethod(index, clip, backbone, tiny_preset.segmentation)
