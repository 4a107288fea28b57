"""Results and evidence as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeda.errors import ConfigError, OutputError, reason
from freeda.segmentation import FORMATS
from freeda.segmentation.coco import coco_document, coco_panoptic
from freeda.segmentation.drawing import draw_labels, draw_overlay
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.evidence_sheet import draw_evidence
from freeda.segmentation.label_studio import label_studio_task
from freeda.segmentation.pieces import Piece
from freeda.segmentation.result import Segmentation

__all__ = ["result_summary", "save_evidence", "save_result"]


@dataclass(frozen=True)
class _Target:
    """Where a result's files go. stem: begins their names. image: the image's file name."""

    folder: Path
    stem: str
    image: str
    instances: bool

    def path(self, ending: str) -> Path:
        return self.folder / f"{self.stem}.{ending}"


def save_result(
    result: Segmentation, folder: Path, stem: str, formats: Sequence[str], *, instances: bool = False
) -> list[Path]:
    """Writes STEM.json and the files of each format into `folder`; returns the paths.

    instances: whether every connected piece of a class is a segment of its own, where a format has segments.
    Raises `ConfigError`, `OutputError`.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigError(f"unknown format '{unknown[0]}'; expected any of {', '.join(FORMATS)}")
    target = _Target(folder, stem, result.file_name or stem, instances)
    with _writing_to(folder):
        chosen = [name for name in FORMATS if name in formats]
        written = [path for name in chosen for path in _WRITERS[name](result, target)]
        return [*written, _write_json(result_summary(result), target.path("json"))]


def save_evidence(evidence: Evidence, folder: Path, stem: str) -> list[Path]:
    """Writes STEM.X-Y.evidence.png and .json into `folder`; returns the paths. Raises `OutputError`."""
    name = f"{stem}.{evidence.x}-{evidence.y}.evidence"
    with _writing_to(folder):
        draw_evidence(evidence).save(folder / f"{name}.png")
        return [folder / f"{name}.png", _write_json(evidence.as_dict(), folder / f"{name}.json")]


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"cannot write to '{folder}': {reason(error)}; choose another --out") from error


def result_summary(result: Segmentation) -> dict[str, Any]:
    """What a result's JSON file holds."""
    height, width = result.labels.shape
    return {
        "height": height,
        "width": width,
        "classes": list(result.classes),
        "ignore_index": result.ignore_index,
        "undecided": int((result.labels == result.ignore_index).sum()),
        "paths": dict(result.paths),
        "segments": result.segments_info,
        **({} if result.segment_source is None else {"panoptic": _panoptic(result)}),
    }


def _panoptic(result: Segmentation) -> list[dict[str, Any]]:
    """The segments that a method has found by itself, without their masks."""
    return [
        {
            "id": item.id,
            "class": item.label,
            "label": item.name,
            "thing": item.is_thing,
            "area": piece.area,
            "box": piece.box,
            "score": item.score,
        }
        for item, piece in ((item, Piece.of(item.mask)) for item in result.segments)
    ]


def _write_json(content: Any, path: Path, indent: int | None = 2) -> Path:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _write_labels(result: Segmentation, target: _Target) -> list[Path]:
    path = target.path("labels.png")
    draw_labels(result).save(path)
    return [path]


def _write_overlay(result: Segmentation, target: _Target) -> list[Path]:
    path = target.path("overlay.png")
    draw_overlay(result).save(path)
    return [path]


def _write_npz(result: Segmentation, target: _Target) -> list[Path]:
    path = target.path("npz")
    np.savez_compressed(
        path, labels=result.labels, scores=result.scores, classes=np.array(result.classes, np.str_)
    )
    return [path]


def _write_scores(result: Segmentation, target: _Target) -> list[Path]:
    """`scores`, (K, H, W) float16, and `classes`, the names of the K classes found."""
    path = target.path("scores.npz")
    found = [item["label"] for item in result.segments_info]
    scores = result.score_maps(found, np.float16)
    np.savez_compressed(path, scores=scores, classes=np.array(found, np.str_))
    return [path]


def _write_coco(result: Segmentation, target: _Target) -> list[Path]:
    document = coco_document(result, target.image, instances=target.instances)
    return [_write_json(document, target.path("coco.json"), indent=None)]


def _write_panoptic(result: Segmentation, target: _Target) -> list[Path]:
    path = target.path("panoptic.png")
    ids, document = coco_panoptic(result, target.image, path.name, instances=target.instances)
    Image.fromarray(ids).save(path)
    return [path, _write_json(document, target.path("panoptic.json"), indent=None)]


def _write_label_studio(result: Segmentation, target: _Target) -> list[Path]:
    task = label_studio_task(result, target.image, instances=target.instances)
    return [_write_json([task], target.path("labelstudio.json"), indent=None)]


_WRITERS: dict[str, Callable[[Segmentation, _Target], list[Path]]] = {
    "labels": _write_labels,
    "overlay": _write_overlay,
    "npz": _write_npz,
    "scores": _write_scores,
    "coco": _write_coco,
    "panoptic": _write_panoptic,
    "labelstudio": _write_label_studio,
}
