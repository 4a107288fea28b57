from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from freeda.cli import main
from freeda.errors import ExplanationError
from freeda.methods.freeda import FreedaSegmenter, load
from freeda.presets.settings import Preset
from freeda.segmentation.evidence import Candidate, Evidence, Vote
from freeda.segmentation.evidence_sheet import _thumbnail, draw_evidence
from freeda.segmentation.regions import superpixels
from tests.freeda.methods.contract import picture

CLASSES = "cat;dog;grass;sky"


@pytest.fixture(params=["default", "paper"])
def segmenter(index_folder: Path, request: pytest.FixtureRequest) -> FreedaSegmenter:
    return load(index_folder, recipe=request.param)


@pytest.fixture
def merging(index_folder: Path) -> FreedaSegmenter:
    segmenter = load(index_folder)
    segmenter.method.settings = replace(segmenter.method.settings, merge_above=0.95)
    return segmenter


def test_a_merged_region_explains_its_pixel(merging: FreedaSegmenter) -> None:
    result = merging.segment(picture(60, 130), CLASSES)
    scores = merging.method.score_image(picture(60, 130), merging.encode_classes(CLASSES))
    merging.method.settings = replace(merging.method.settings, merge_above=1.0)
    apart = merging.segment(picture(60, 130), CLASSES)
    merging.method.settings = replace(merging.method.settings, merge_above=0.95)
    assert result.paths["regions pooled"] < apart.paths["regions pooled"]
    evidence = result.explain(100, 30)
    row, column = int(30.5 * 56 / 60), int(100.5 * scores.shape[2] / 130)
    found = {c.name: c.score for c in evidence.candidates}
    assert found == pytest.approx(
        dict(zip(result.classes, scores[:, row, column].tolist(), strict=True)), abs=1e-4
    )


@pytest.mark.parametrize("size", [(56, 56), (60, 130), (9, 5)])
def test_the_winner_s_score_is_the_pixel_s(segmenter: FreedaSegmenter, size: tuple[int, int]) -> None:
    result = segmenter.segment(picture(*size), CLASSES)
    for x, y in ((0, 0), (size[1] // 3, size[0] // 2), (size[1] - 1, size[0] - 1)):
        evidence = result.explain(x, y)
        scores = segmenter.method.score_image(picture(*size), segmenter.encode_classes(CLASSES))
        row, column = (
            int((at + 0.5) * s / n) for at, s, n in zip((y, x), scores.shape[1:], size, strict=True)
        )
        expected = dict(zip(result.classes, scores[:, row, column].tolist(), strict=True))
        assert {c.name: c.score for c in evidence.candidates} == pytest.approx(expected, abs=1e-4)
        assert evidence.candidates[0].name == max(expected, key=expected.__getitem__)
        for item in evidence.candidates:
            assert item.score == pytest.approx(
                0.8 * item.parts["local"] + 0.2 * item.parts["global"], abs=1e-4
            )
        assert evidence.region.shape == size
        assert evidence.region[y, x]


def test_refined_scores_are_the_pixel_s(index_folder: Path) -> None:
    segmenter = load(index_folder)
    plain = segmenter.segment(picture(56, 80), CLASSES).explain(30, 20)
    segmenter.method.settings = replace(segmenter.method.settings, pamr=4)
    result = segmenter.segment(picture(56, 80), CLASSES)
    evidence = result.explain(30, 20)
    scores = segmenter.method.score_image(picture(56, 80), segmenter.encode_classes(CLASSES))[:, 20, 30]
    found = {c.name: c.score for c in evidence.candidates}
    assert found == pytest.approx(dict(zip(result.classes, scores.tolist(), strict=True)), abs=1e-4)
    assert evidence.candidates[0].name == result.classes[result.labels[20, 30]]
    assert (evidence.refined, plain.refined) == (True, False)
    parts = {c.name: dict(c.parts) for c in evidence.candidates}
    assert parts == {c.name: dict(c.parts) for c in plain.candidates}
    assert found != {c.name: c.score for c in plain.candidates}
    assert json.loads(json.dumps(evidence.as_dict()))["refined"]


def test_votes_are_the_winner_s_neighbours_that_look_most_alike(segmenter: FreedaSegmenter) -> None:
    segmenter.method.settings = replace(segmenter.method.settings, neighbors=20)
    evidence = segmenter.segment(picture(56, 56), CLASSES).explain(10, 20)
    best = evidence.candidates[0].name
    vocabulary = segmenter.encode_classes(best)
    keys = segmenter.method.index.keys.reconstruct_n(0, 60) @ vocabulary.texts[0].numpy()
    nearest = {str(row) for row in np.argsort(-keys)[:20]}
    assert {vote.id for vote in evidence.votes} <= nearest
    vectors = segmenter.method.index.vectors([int(row) for row in nearest])
    image = torch.from_numpy(picture(56, 56)).permute(2, 0, 1)[None].float() / 255
    dense = segmenter.method.backbone.dense_features(image, 56)[0].numpy()
    labels = superpixels(image[0].permute(1, 2, 0).numpy(), segmenter.method.settings.superpixels).labels
    grown = dense.repeat(14, 1).repeat(14, 2)[:, labels == labels[20, 10]].mean(1)
    cosines = vectors @ grown / np.linalg.norm(vectors, axis=1) / np.linalg.norm(grown)
    looks = [vote.visual_similarity for vote in evidence.votes]
    np.testing.assert_allclose(looks, np.sort(cosines)[::-1][:6], atol=2e-3)
    for vote in evidence.votes:
        assert vote.text_similarity == pytest.approx(float(keys[int(vote.id)]), abs=1e-4)


def test_background_wins_without_votes(index_folder: Path) -> None:
    segmenter = load(index_folder, background=True)
    segmenter.method.settings = replace(segmenter.method.settings, background=0.9)
    evidence = segmenter.segment(picture(56, 60), CLASSES).explain(3, 4)
    assert (evidence.candidates[0].name, evidence.candidates[0].score) == ("background", 0.9)
    assert evidence.votes == ()
    draw_evidence(evidence)


def test_results_travel_without_their_models(segmenter: FreedaSegmenter) -> None:
    result = segmenter.segment(picture(56, 60), CLASSES)
    copied = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copied.labels, result.labels)
    with pytest.raises(ExplanationError):
        copied.explain(1, 1)


def test_inner_points_lie_in_their_class(segmenter: FreedaSegmenter) -> None:
    result = segmenter.segment(picture(90, 140), CLASSES)
    points = result.inner_points()
    assert list(points) == [item["label"] for item in result.segments_info]
    for name, (x, y) in points.items():
        assert result.mask(name)[y, x]


def test_pixels_outside_and_methods_without_votes_are_refused(
    segmenter: FreedaSegmenter, tiny_preset: Preset
) -> None:
    result = segmenter.segment(picture(56, 60), CLASSES)
    with pytest.raises(ExplanationError, match=r"\(60, 0\) lies outside the image of 60 x 56"):
        result.explain(60, 0)
    from freeda.methods.diffsegmenter import load as load_diffsegmenter

    other = load_diffsegmenter(preset=tiny_preset).segment(picture(64, 64), CLASSES)
    with pytest.raises(ExplanationError, match="cannot be explained"):
        other.explain(1, 1)


def test_the_sheet_shows_every_vote(tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (20, 20), (10, 200, 30)).save(encoded, "PNG")
    vote = Vote(
        row=0,
        id="1",
        noun="cat",
        caption="a cat " * 40,
        text_similarity=0.9,
        visual_similarity=0.5,
        thumbnail=encoded.getvalue(),
    )
    candidates = tuple(
        Candidate(name=n, score=s, parts={"local": s, "global": 0.1}) for n, s in (("cat", 0.6), ("dog", 0.5))
    )
    region = np.zeros((30, 40), bool)
    region[5:20, 5:30] = True
    image = np.full((30, 40, 3), 90, np.uint8)
    evidence = Evidence(
        image=image,
        x=12,
        y=8,
        region=region,
        candidates=candidates,
        weights={"local": 0.8, "global": 0.2},
        votes=(vote,) * 5,
    )
    sheet = np.array(draw_evidence(evidence))
    assert (sheet == (10, 200, 30)).all(-1).sum() == pytest.approx(5 * 104 * 104, rel=0.01)
    paths = evidence.save(tmp_path, "photo")
    assert [path.name for path in paths] == ["photo.12-8.evidence.png", "photo.12-8.evidence.json"]
    held = json.loads(paths[1].read_text())
    assert held["region_pixels"] == 15 * 25
    assert [item["class"] for item in held["candidates"]] == ["cat", "dog"]
    assert len(held["prototypes"]) == 5


def test_the_command_explains_pixels(index_folder: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(56, 60)).save(tmp_path / "photo.png")
    command = ["segment", str(tmp_path / "photo.png"), "--classes", CLASSES, "--index", str(index_folder)]
    shown = CliRunner().invoke(
        main, [*command, "--out", str(tmp_path / "o"), "--explain", "7,9", "--explain", "all"]
    )
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "o" / "photo.7-9.evidence.png").exists()
    found = json.loads((tmp_path / "o" / "photo.json").read_text())["segments"]
    assert len(list((tmp_path / "o").glob("*.evidence.json"))) == 1 + len(found)
    shown = CliRunner().invoke(main, [*command, "--explain", "seven"])
    assert shown.exit_code == 2
    assert "expected X,Y in pixels, or all" in shown.output


@pytest.mark.parametrize(("kind", "side"), [("EPS", 20), ("PNG", 3000)])
def test_thumbnails_of_other_formats_or_of_great_size_are_not_decoded(kind: str, side: int) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), (10, 200, 30)).save(encoded, kind)
    shown = np.asarray(_thumbnail(encoded.getvalue()))
    np.testing.assert_array_equal(shown, np.full_like(shown, 0xE6) + np.array([0, 2, 5], np.uint8))
