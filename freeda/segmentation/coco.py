"""Results in COCO's format, with masks as run lengths."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from freeda.segmentation.result import Segmentation

__all__ = ["coco_document", "connected_pieces", "run_lengths"]


def coco_document(result: Segmentation, file_name: str, *, instances: bool = False) -> dict[str, Any]:
    """A result as COCO's images, categories and annotations, as plain data.

    A category's id is its class's number plus one. Masks are uncompressed run lengths, which pycocotools
    reads.
    file_name: of the image.
    instances: whether every connected piece of a class is an annotation of its own.
    """
    height, width = result.labels.shape
    annotations: list[dict[str, Any]] = []
    for item in result.segments_info:
        mask = result.labels == item["id"]
        for piece in connected_pieces(mask) if instances else [mask]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1,
                    "category_id": item["id"] + 1,
                    "segmentation": {"size": [height, width], "counts": run_lengths(piece.T)},
                    "area": int(piece.sum()),
                    "bbox": _box(piece),
                    "iscrowd": 0,
                    "score": round(float(result.scores[piece].mean()), 6),
                }
            )
    return {
        "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(result.classes)],
        "annotations": annotations,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask's rows laid end to end: of False first (0 where there are none), then of
    True, and so on. COCO's run along columns: give it the transposed mask.
    """
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes])).tolist()


def connected_pieces(mask: np.ndarray) -> list[np.ndarray]:
    """The (H, W) connected pieces of a mask, of pixels that touch at a side or a corner, largest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    order = sorted(range(1, count), key=lambda number: -int(stats[number, cv2.CC_STAT_AREA]))
    return [np.asarray(labels == number) for number in order]


def _box(mask: np.ndarray) -> list[int]:
    """Left, top, width and height."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
