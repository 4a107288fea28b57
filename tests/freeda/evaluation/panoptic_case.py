"""Ten images in COCO's panoptic format, true and predicted, and what COCO's panopticapi says of them.

The table was made once: `write_case(folder)`, then panopticapi 0.2.0 (panopticapi-lite) as
`pq_compute("truth.json", "found.json", "truth", "found")`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": n + 1, "name": f"kind {n}", "isthing": int(n < 2)} for n in range(4)]
SIZE = (24, 36)
GOLDEN = (
    (0.4940358693522408, 0.7410538040283612, 0.6666666666666666),
    (0.5827725402700576, 0.9227231887609246, 0.631578947368421),
    (0.5995217233203941, 0.7793782663165123, 0.7692307692307693),
    (0.6379758983737784, 0.8631438625057003, 0.7391304347826086),
)
"""PQ, SQ and RQ of each category."""


def write_case(out: Path) -> None:
    """The true maps hold unmarked pixels, and at most one crowd per category; predictions are shifted by a
    pixel, and some have another category.
    """
    rng = np.random.RandomState(0)  # the stream of the older generator never changes
    lists: dict[str, list[Any]] = {"images": [], "truth": [], "found": []}
    for number in range(10):
        ids = _rectangles(rng, 9)
        shifted = np.roll(ids, (rng.randint(-1, 2), rng.randint(-1, 2)), (0, 1))
        categories = rng.randint(1, 5, 10)
        guessed = np.where(rng.rand(10) < 0.7, categories, rng.randint(1, 5, 10))
        crowd, unmarked = rng.rand(10) < 0.3, rng.rand(10) < 0.1
        ids[unmarked[ids]] = 0
        told = _true_segments(ids, categories, crowd)
        guess = [{"id": n, "category_id": int(guessed[n])} for n in range(1, 10) if (shifted == n).any()]
        lists["images"].append({"id": number, "file_name": f"{number}.jpg", "height": 24, "width": 36})
        for name, content, segments in (("truth", ids, told), ("found", shifted, guess)):
            file = f"{number}.png"
            _save(out / name / file, content)
            lists[name].append({"image_id": number, "file_name": file, "segments_info": segments})
        _save(out / "images" / f"{number}.jpg", ids)
    for name in ("truth", "found"):
        document = {"images": lists["images"], "annotations": lists[name], "categories": CATEGORIES}
        (out / f"{name}.json").write_text(json.dumps(document))


def _rectangles(rng: np.random.RandomState, count: int) -> np.ndarray:
    ids = np.zeros(SIZE, np.int64)
    for number in range(1, count + 1):
        top, left = rng.randint(0, SIZE[0] - 6), rng.randint(0, SIZE[1] - 6)
        height, width = rng.randint(4, 16, 2)
        ids[top : top + height, left : left + width] = number
    return ids


def _true_segments(ids: np.ndarray, categories: np.ndarray, crowd: np.ndarray) -> list[dict[str, int]]:
    told: list[dict[str, int]] = []
    crowded: set[int] = set()
    for number in range(1, 10):
        area, category = int((ids == number).sum()), int(categories[number])
        if not area:
            continue
        is_crowd = bool(crowd[number]) and category <= 2 and category not in crowded
        crowded |= {category} if is_crowd else set()
        told.append({"id": number, "category_id": category, "iscrowd": int(is_crowd), "area": area})
    return told


def _save(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(path)
