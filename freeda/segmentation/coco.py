"""Results in COCO's formats: annotations with masks as run lengths, and panoptic maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from freeda.segmentation.pieces import LabelledPiece, result_pieces
from freeda.segmentation.result import Segmentation

__all__ = ["coco_document", "coco_panoptic"]


def coco_document(result: Segmentation, file_name: str, *, instances: bool = False) -> dict[str, Any]:
    """A result as COCO's images, categories and annotations, as plain data.

    A category's id is its class's number plus one. Masks are uncompressed run lengths, which pycocotools
    reads.
    file_name: of the image.
    instances: whether every connected piece of a class is an annotation of its own.
    """
    height, width = result.labels.shape
    annotations = [
        {
            **_segment(number, found),
            "image_id": 1,
            "segmentation": {"size": [height, width], "counts": found.piece.column_runs(height, width)},
        }
        for number, found in enumerate(result_pieces(result, instances=instances), 1)
    ]
    return {
        "images": [_image(result, file_name)],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(result.classes)],
        "annotations": annotations,
    }


def coco_panoptic(
    result: Segmentation, file_name: str, map_name: str, *, instances: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """A result as COCO's panoptic map and its document.

    The map is (H, W, 3) uint8: a segment's id is R + 256 G + 65536 B, and 0 where nothing was decided.
    file_name: of the image. map_name: of the map's PNG.
    instances: whether every connected piece of a class is a segment of its own. Classes are then marked as
        things, else as stuff; segments that the method has found by itself are what it says they are.
    """
    ids = np.zeros(result.labels.shape, np.uint32)
    segments = []
    for number, found in enumerate(result_pieces(result, instances=instances), 1):
        found.piece.cut(ids)[found.piece.mask] = number
        segments.append(_segment(number, found))
    source = result.segment_source
    things = (
        range(len(result.classes) if instances else 0) if source is None else source.things(result.classes)
    )
    categories = [
        {"id": number + 1, "name": name, "isthing": int(number in things), "color": color}
        for number, (name, color) in enumerate(zip(result.classes, result.colors.tolist(), strict=True))
    ]
    document = {
        "images": [_image(result, file_name)],
        "categories": categories,
        "annotations": [{"image_id": 1, "file_name": map_name, "segments_info": segments}],
    }
    colored = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
    return colored, document


def _segment(number: int, found: LabelledPiece) -> dict[str, Any]:
    """What annotations and panoptic segments have in common."""
    return {
        "id": number,
        "category_id": found.label + 1,
        "area": found.piece.area,
        "bbox": found.piece.box,
        "iscrowd": 0,
        "score": found.score,
    }


def _image(result: Segmentation, file_name: str) -> dict[str, Any]:
    height, width = result.labels.shape
    return {"id": 1, "file_name": file_name, "height": height, "width": width}
