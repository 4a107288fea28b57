"""The folder of an evaluation: what is measured, and a line per finished image, so that runs can resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freeda.errors import OutputError, reason
from freeda.files import replacing
from freeda.segmentation.result import Segmentation

__all__ = ["ImageRecord", "RecordLog", "RunFolder"]

_RUN, _IMAGES, _PREDICTIONS = "run.json", "images.jsonl", "predictions"
_LISTS = ("pairs", "foreground", "segments", "instances")
"""Of an image's record."""


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image's result.

    seconds: since the result before, for images pass the models in groups.
    miou: over the classes of this image.
    paths: how many regions, or classes, were handled in which way.
    pairs: (true label, predicted label, pixels).
    foreground: where there is a background: (true label, best class, number of `THRESHOLDS` below its score,
        pixels).
    segments: for panoptic quality, per class, counted without a background: (class, sum of IoU, matched,
        spurious, missed).
    instances: for average precision: (class, score, size and counts of a compressed run length).
    """

    name: str
    seconds: float
    miou: float
    paths: Mapping[str, int]
    pairs: Sequence[tuple[int, int, int]]
    foreground: Sequence[tuple[int, int, int, int]] = ()
    segments: Sequence[tuple[int, float, int, int, int]] = ()
    instances: Sequence[tuple[int, float, tuple[int, int], str]] = ()


@dataclass(frozen=True)
class RunFolder:
    """Where a run is logged.

    overwrite: whether another run in the folder is replaced.
    save_predictions: whether label maps are kept, numbered as the data set's own files.
    """

    path: Path
    overwrite: bool = False
    save_predictions: bool = False

    def open(self, settings: Mapping[str, Any]) -> list[ImageRecord]:
        """The records of an earlier run of the same settings; starts a new one where there is none.

        Raises `OutputError`.
        """
        records = _open_run(self.path, settings, self.overwrite)
        if self.save_predictions:
            records = [record for record in records if self._prediction(record.name).exists()]
        return records

    @contextmanager
    def log(self) -> Iterator[RecordLog]:
        with (self.path / _IMAGES).open("a", encoding="utf-8") as file:
            yield RecordLog(file)

    def save(self, name: str, result: Segmentation, ids: np.ndarray) -> None:
        """Keeps an image's labels where predictions are kept. ids: the data set's numbers of the labels."""
        if not self.save_predictions:
            return
        path = self._prediction(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = np.where(result.labels == result.ignore_index, 255, ids)
        Image.fromarray(numbered.astype(np.uint8)).save(path)

    def _prediction(self, name: str) -> Path:
        return self.path / _PREDICTIONS / f"{name}.png"


@dataclass(frozen=True)
class RecordLog:
    """Takes records, a line each."""

    file: Any

    def add(self, record: ImageRecord) -> None:
        self.file.write(json.dumps(vars(record)) + "\n")
        self.file.flush()


def _open_run(out: Path, settings: Mapping[str, Any], overwrite: bool) -> list[ImageRecord]:
    """The records of an earlier run of the same settings; starts a new one where there is none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        _require_run_or_nothing(out)
        if overwrite:
            (out / _RUN).unlink(missing_ok=True)
            shutil.rmtree(out / _PREDICTIONS, ignore_errors=True)
        if not (out / _RUN).exists():
            (out / _IMAGES).write_text("", encoding="utf-8")
            with replacing(out / _RUN) as partial:
                partial.write_text(json.dumps(settings, indent=2, default=str) + "\n", encoding="utf-8")
            return []
    except OSError as error:
        raise OutputError(f"cannot write to '{out}': {reason(error)}; choose another --out") from error
    _require_same(out, json.loads((out / _RUN).read_text(encoding="utf-8")), settings)
    return _read_records(out / _IMAGES)


def _require_run_or_nothing(out: Path) -> None:
    """Raises `OutputError` for a folder with files that are no run's."""
    held = {path.name: path for path in out.iterdir() if not path.name.endswith(".partial")}
    begun = set(held) == {_IMAGES} and not held[_IMAGES].stat().st_size
    if held and _RUN not in held and not begun:
        raise OutputError(
            f"'{out}' is no run of `freeda evaluate` and holds other files ({min(held)}); name an empty or "
            f"new folder"
        )


def _require_same(out: Path, held: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(settings, default=str))
    changed = [
        f"{key} {held.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted({*held, *wanted})
        if held.get(key) != wanted.get(key)
    ]
    if changed:
        raise OutputError(
            f"'{out}' holds another run ({'; '.join(changed)}); choose another --out or add --overwrite"
        )


def _read_records(path: Path) -> list[ImageRecord]:
    """All whole lines; a last one that was cut off is taken away, its image comes again."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    records = []
    for line in whole.splitlines():
        data = json.loads(line)
        if not data.keys() >= {*_LISTS}:
            raise OutputError(f"'{path}' was written by an earlier version of freeda; add --overwrite")
        counted = {name: [tuple(entry) for entry in data[name]] for name in _LISTS}
        records.append(ImageRecord(**data | counted))
    return records
