"""Average precision of instances, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freeda.errors import ConfigError
from freeda.segmentation.annotations import AnnotatedImage

__all__ = ["AveragePrecision", "average_precision", "compressed"]

Instance = tuple[int, float, tuple[int, int], str]
"""Class, score, size and counts of a compressed run length."""


@dataclass(frozen=True)
class AveragePrecision:
    """Averages over classes: at IoU 0.5 to 0.95, at 0.5, at 0.75; NaN where no thing occurs."""

    ap: float
    ap50: float
    ap75: float


def compressed(mask: np.ndarray) -> tuple[tuple[int, int], str]:
    """Size and counts of an (H, W) mask as COCO's compressed run length."""
    found = _tools().mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = found["size"]
    return (int(height), int(width)), found["counts"].decode()


def average_precision(
    truths: Iterable[AnnotatedImage], found: Sequence[Sequence[Instance]], things: Iterable[int]
) -> AveragePrecision:
    """truths: of each image, in the order of `found`. things: classes that have instances."""
    chosen = sorted(things)
    dataset: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": label + 1, "name": str(label)} for label in chosen],
    }
    results = []
    for number, (truth, instances) in enumerate(zip(truths, found, strict=True), 1):
        height, width = truth.segments.shape
        dataset["images"].append({"id": number, "height": height, "width": width})
        for segment, label in enumerate(truth.labels):
            if label in chosen and (mask := truth.segments == segment).any():
                first = len(dataset["annotations"]) + 1
                crowd = segment in truth.crowds
                dataset["annotations"].append(_annotation(first, number, label, mask, crowd))
        results += [
            {
                "image_id": number,
                "category_id": label + 1,
                "score": score,
                "segmentation": {"size": list(size), "counts": counts},
            }
            for label, score, size, counts in instances
        ]
    return _evaluated(dataset, results)


def _evaluated(dataset: dict[str, Any], results: list[dict[str, Any]]) -> AveragePrecision:
    if not dataset["annotations"]:
        return AveragePrecision(np.nan, np.nan, np.nan)
    if not results:
        return AveragePrecision(0.0, 0.0, 0.0)
    tools = _tools()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of its own
        truth = tools.coco.COCO()
        truth.dataset = dataset
        truth.createIndex()
        run = tools.cocoeval.COCOeval(truth, truth.loadRes(results), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return AveragePrecision(*(float(value) for value in run.stats[:3]))


def _annotation(number: int, image: int, label: int, mask: np.ndarray, crowd: bool) -> dict[str, Any]:
    size, counts = compressed(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": number,
        "image_id": image,
        "category_id": label + 1,
        "area": int(mask.sum()),
        "bbox": [int(value) for value in box],
        "iscrowd": int(crowd),
        "segmentation": {"size": list(size), "counts": counts},
    }


def _tools() -> Any:
    """Pycocotools with its modules."""
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
        import pycocotools.mask
    except ImportError as error:
        raise ConfigError(
            "average precision needs pycocotools, which is not installed: pip install 'freeda[coco]'"
        ) from error
    return pycocotools
