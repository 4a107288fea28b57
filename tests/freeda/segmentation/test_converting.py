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


def test_supervision_takes_every_class_as_a_detection(patchwork: Segmentation) -> None:
    found = patchwork.to_supervision()
    assert len(found) == 3
    for box, mask, confidence, number, _, data in found:
        np.testing.assert_array_equal(mask, patchwork.labels == number)
        assert data["class_name"] == patchwork.classes[number]
        assert confidence == pytest.approx(patchwork.scores[mask].mean(), abs=1e-6)
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    drawn = sv.MaskAnnotator(opacity=1.0).annotate(patchwork.image.copy(), found)
    assert (drawn.any(-1) == (patchwork.labels != 255)).all()
    assert len(found[found["class_name"] == "dog"]) == 1


def test_supervision_takes_pieces_apart(patchwork: Segmentation) -> None:
    found = patchwork.to_supervision(instances=True)
    for number in range(4):
        pieces = ndimage.label(patchwork.labels == number, np.ones((3, 3)))[1]
        assert (found.class_id == number).sum() == pieces
    assert (found.mask.sum(0) == (patchwork.labels != 255)).all()


def test_nothing_found_is_no_detection(patchwork: Segmentation) -> None:
    nothing = np.full_like(patchwork.labels, 255)
    empty = Segmentation(image=patchwork.image, labels=nothing, scores=patchwork.scores, classes=("cat",))
    assert len(empty.to_supervision()) == 0
    assert empty.to_pipeline() == []
    assert empty.to_transformers()["segments_info"] == []


def test_without_supervision_the_cure_is_told(
    patchwork: Segmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        patchwork.to_supervision()


def test_transformers_shapes(patchwork: Segmentation) -> None:
    found = patchwork.to_transformers()
    segments = found["segmentation"]
    assert segments.dtype == torch.int32 and tuple(segments.shape) == patchwork.labels.shape
    for item in found["segments_info"]:
        assert item.keys() == {"id", "label_id", "label", "score", "was_fused"}
        mask = (segments == item["id"]).numpy()
        np.testing.assert_array_equal(mask, patchwork.labels == item["label_id"])
    np.testing.assert_array_equal((segments == 0).numpy(), patchwork.labels == 255)


def test_the_pipeline_s_list(patchwork: Segmentation) -> None:
    found = patchwork.to_pipeline()
    assert [item["label"] for item in found] == [item["label"] for item in patchwork.segments_info]
    for item in found:
        assert isinstance(item["mask"], Image.Image) and item["mask"].mode == "L"
        expected = patchwork.labels == patchwork.classes.index(item["label"])
        np.testing.assert_array_equal(np.asarray(item["mask"]), expected * np.uint8(255))
