"""Results and evidence as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from freeda.errors import ConfigError, OutputError, reason
from freeda.segmentation import FORMATS
from freeda.segmentation.coco import coco_document
from freeda.segmentation.drawing import draw_labels, draw_overlay
from freeda.segmentation.evidence import Evidence
from freeda.segmentation.evidence_sheet import draw_evidence
from freeda.segmentation.result import Segmentation

__all__ = ["result_summary", "save_evidence", "save_result"]


def save_result(
    result: Segmentation, folder: Path, stem: str, formats: Sequence[str], *, instances: bool = False
) -> list[Path]:
    """Writes STEM.json and a file per format into `folder`; returns the paths.

    instances: whether every connected piece of a class is a COCO annotation of its own.
    Raises `ConfigError`, `OutputError`.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigError(f"unknown format '{unknown[0]}'; expected any of {', '.join(FORMATS)}")
    with _writing_to(folder):
        chosen = [name for name in FORMATS if name in formats]
        written = [_write(result, folder, stem, name, instances) for name in chosen]
        return [*written, _write_json(result_summary(result), folder / f"{stem}.json")]


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


def _write(result: Segmentation, folder: Path, stem: str, name: str, instances: bool) -> Path:
    if name == "coco":
        document = coco_document(result, result.file_name or stem, instances=instances)
        return _write_json(document, folder / f"{stem}.coco.json", indent=None)
    if name == "npz":
        path = folder / f"{stem}.npz"
        np.savez_compressed(
            path, labels=result.labels, scores=result.scores, classes=np.array(result.classes)
        )
        return path
    path = folder / f"{stem}.{name}.png"
    picture = draw_labels(result) if name == "labels" else draw_overlay(result)
    picture.save(path)
    return path


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
    }


def _write_json(content: dict[str, Any], path: Path, indent: int | None = 2) -> Path:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
