"""Results as predictions for Label Studio, to be corrected there with its brush."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from freeda.segmentation.pieces import result_pieces, run_lengths
from freeda.segmentation.result import Segmentation

__all__ = ["label_studio_task", "packed_runs"]

_LENGTH_BITS = (3, 4, 8, 16)
"""Widths of a run's length; a run takes the narrowest that holds it."""
_CHANNELS = 4


def label_studio_task(result: Segmentation, file_name: str, *, instances: bool = False) -> dict[str, Any]:
    """A task with one prediction, for a labelling interface with `<Image name="image" value="$image"/>` and
    `<BrushLabels name="label" toName="image">`.

    file_name: the task's image.
    instances: whether every connected piece of a class is a brush region of its own.
    """
    height, width = result.labels.shape
    regions = [
        {
            "id": str(number),
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": found.score,
            "value": {
                "format": "rle",
                "rle": packed_runs(found.piece.whole(height, width)),
                "brushlabels": [result.classes[found.label]],
            },
        }
        for number, found in enumerate(result_pieces(result, instances=instances), 1)
    ]
    shares = [(item["share"], item["score"]) for item in result.segments_info]
    mean = sum(share * score for share, score in shares) / max(sum(share for share, _ in shares), 1e-9)
    prediction = {"model_version": "freeda", "score": round(mean, 6), "result": regions}
    return {"data": {"image": file_name}, "predictions": [prediction]}


def packed_runs(mask: np.ndarray) -> list[int]:
    """The bytes of an (H, W) mask in Label Studio's run-length encoding (the format of thi.ng/rle-pack).

    Label Studio encodes a mask as an RGBA picture, so every pixel counts four times, as 0 or 255.
    """
    header = f"{mask.size * _CHANNELS:032b}{8 - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    runs = "".join(
        _packed_run(part, value)
        for place, length in enumerate(run_lengths(mask))
        for value in (255 * (place % 2),)
        for part in _parts(length * _CHANNELS)
    )
    bits = np.frombuffer((header + runs).encode(), np.uint8) - ord("0")
    return np.packbits(bits).tolist()


def _parts(length: int) -> Iterator[int]:
    """A length as ones that the widest field holds."""
    longest = 1 << _LENGTH_BITS[-1]
    while length > 0:
        yield min(length, longest)
        length -= longest


def _packed_run(length: int, value: int) -> str:
    """The bits of a run: that it is one, which field holds its length, the length less one, the value."""
    field = next(place for place, bits in enumerate(_LENGTH_BITS) if length <= 1 << bits)
    return f"1{field:02b}{length - 1:0{_LENGTH_BITS[field]}b}{value:08b}"
