"""Results in the forms of other libraries: supervision, and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from freeda.errors import ConfigError
from freeda.segmentation.pieces import result_pieces
from freeda.segmentation.result import Segmentation

if TYPE_CHECKING:
    import supervision

__all__ = ["to_pipeline", "to_supervision", "to_transformers"]


def to_supervision(result: Segmentation, *, instances: bool = False) -> supervision.Detections:
    """`sv.Detections` with masks, boxes, class numbers, mean scores, and names as `data["class_name"]`.

    instances: whether every connected piece of a class is a detection of its own.
    Raises `ConfigError` where supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            "to_supervision() needs the package supervision: pip install supervision"
        ) from error
    height, width = result.labels.shape
    pieces = list(result_pieces(result, instances=instances))
    masks = [found.piece.whole(height, width) for found in pieces]
    numbers = [found.label for found in pieces]
    if not masks:
        empty = supervision.Detections.empty()
        empty.data["class_name"] = np.array([], np.str_)
        return empty
    stacked = np.stack(masks)
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(stacked).astype(np.float32),
        mask=stacked,
        confidence=np.array([found.score for found in pieces], np.float32),
        class_id=np.array(numbers),
        data={"class_name": np.array([result.classes[number] for number in numbers])},
    )


def to_transformers(result: Segmentation) -> dict[str, Any]:
    """As transformers' `post_process_panoptic_segmentation`.

    "segmentation" is an (H, W) int32 tensor of segments' ids from 1, and 0 where nothing was decided;
    "segments_info" has id, label_id, label, score and was_fused.
    """
    info = [
        {
            "id": item.id,
            "label_id": item.label,
            "label": item.name,
            "score": item.score,
            "was_fused": False,
        }
        for item in result.segments
    ]
    return {"segmentation": torch.from_numpy(result.segment_map), "segments_info": info}


def to_pipeline(result: Segmentation) -> list[dict[str, Any]]:
    """As transformers' "image-segmentation" pipeline: per class found, its label, score and mask, a PIL image
    of 0 and 255.
    """
    return [
        {
            "label": item["label"],
            "score": item["score"],
            "mask": Image.fromarray((result.labels == item["id"]).astype(np.uint8) * 255),
        }
        for item in result.segments_info
    ]
