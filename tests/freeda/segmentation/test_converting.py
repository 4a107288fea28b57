from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image
from scipy import ndimage

from freeda.errors import ConfigError
from freeda.segmentation.result import Segmentation


@pytest.fixture
def result() -> Segmentation:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (6, 9)), np.ones((5, 4), int)).astype(np.int32)
    labels[:3, :3] = 255
    return Segmentation(
        image=np.zeros((*labels.shape, 3), np.uint8),
        labels=labels,
        scores=rng.random(labels.shape).astype(np.float32),
        classes=("cat", "dog", "grass", "absent"),
    )


def test_supervision_takes_every_class_as_a_detection(result: Segmentation) -> None:
    found = result.to_supervision()
    assert len(found) == 3
    for box, mask, confidence, number, _, data in found:
        np.testing.assert_array_equal(mask, result.labels == number)
        assert data["class_name"] == result.classes[number]
        assert confidence == pytest.approx(result.scores[mask].mean(), abs=1e-6)
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    drawn = sv.MaskAnnotator(opacity=1.0).annotate(result.image.copy(), found)
    assert (drawn.any(-1) == (result.labels != 255)).all()
    assert len(found[found["class_name"] == "dog"]) == 1


def test_supervision_takes_pieces_apart(result: Segmentation) -> None:
    found = result.to_supervision(instances=True)
    for number in range(4):
        pieces = ndimage.label(result.labels == number, np.ones((3, 3)))[1]
        assert (found.class_id == number).sum() == pieces
    assert (found.mask.sum(0) == (result.labels != 255)).all()


def test_nothing_found_is_no_detection(result: Segmentation) -> None:
    nothing = np.full_like(result.labels, 255)
    empty = Segmentation(image=result.image, labels=nothing, scores=result.scores, classes=("cat",))
    assert len(empty.to_supervision()) == 0
    assert empty.to_pipeline() == []
    assert empty.to_transformers()["segments_info"] == []


def test_without_supervision_the_cure_is_told(result: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        result.to_supervision()


def test_transformers_shapes(result: Segmentation) -> None:
    found = result.to_transformers()
    segments = found["segmentation"]
    assert segments.dtype == torch.int32 and tuple(segments.shape) == result.labels.shape
    for item in found["segments_info"]:
        assert item.keys() == {"id", "label_id", "label", "score", "was_fused"}
        mask = (segments == item["id"]).numpy()
        np.testing.assert_array_equal(mask, result.labels == item["label_id"])
    np.testing.assert_array_equal((segments == 0).numpy(), result.labels == 255)


def test_the_pipeline_s_list(result: Segmentation) -> None:
    found = result.to_pipeline()
    assert [item["label"] for item in found] == [item["label"] for item in result.segments_info]
    for item in found:
        assert isinstance(item["mask"], Image.Image) and item["mask"].mode == "L"
        expected = result.labels == result.classes.index(item["label"])
        np.testing.assert_array_equal(np.asarray(item["mask"]), expected * np.uint8(255))
