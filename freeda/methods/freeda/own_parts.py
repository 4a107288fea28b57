"""Prototypes of many marked images, in parts on disk: memory is bounded, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import OutputError, reason
from freeda.files import replacing
from freeda.index.format import PROTOTYPE_COLUMNS, parquet_table
from freeda.records import Prototype, Reject
from freeda.segmentation.marked_images import MarkedImage

__all__ = ["IMAGES_PER_PART", "Collected", "collect"]

IMAGES_PER_PART = 500
_PART = re.compile(r"\.lock|[0-9]{6}\.parquet|\.[0-9]{6}\.parquet\.partial")
"""Names in the folder of parts; a partial one is of a run that was killed."""
_COLUMNS = {**PROTOTYPE_COLUMNS, "source": pa.string(), "reason": pa.string()}
_SCHEMA = pa.schema([("image", pa.string()), *_COLUMNS.items()])
"""A row per prototype or reject. image: digest of the image, its marks and the models."""
Found = Prototype | Reject
Make = Callable[[MarkedImage], Iterable[Found]]


@dataclass
class Collected:
    """What images gave: all of it in parts on disk, but for the last images.

    folder: of the parts. parts: how many there are. last: what the last images gave.
    images: that could be read. count: prototypes. digest: of their ids and vectors.
    """

    folder: Path
    parts: int = 0
    last: list[Found] = field(default_factory=list)
    images: int = 0
    count: int = 0
    rejects: list[Reject] = field(default_factory=list)
    digest: str = ""

    def prototypes(self) -> Iterator[Prototype]:
        """All, in order, one part in memory at a time; of several with one id, the first."""
        seen = set[str]()
        for number in range(self.parts + 1):
            found = self.last if number == self.parts else _flat(_read(_path(self.folder, number)))
            for item in found:
                if isinstance(item, Prototype) and item.id not in seen:
                    seen.add(item.id)
                    yield item

    def remove(self) -> None:
        """Removes all parts, and their folder."""
        for path in _parts(self.folder):
            path.unlink()
        with suppress(OSError):  # somebody may have put something into it
            self.folder.rmdir()


def collect(
    folder: Path,
    models: str,
    images: Iterable[MarkedImage | Reject],
    make: Make,
    on_image: Callable[[int], object],
) -> Collected:
    """Prototypes and rejects of images, read one after the other.

    folder: for the parts; what an interrupted run made there of the same images is taken over.
    models: tells the models and settings that `make` works with from others.
    on_image: called after each image, with how many are done.
    Raises `OutputError`, also where the folder holds anything else.
    """
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if strange := held - {path.name for path in _parts(folder)}:
        raise OutputError(
            f"'{folder}' is for parts of the new index, but holds other files ({min(strange)}); move them, "
            f"or choose another --out"
        )
    done, ids, whole = Collected(folder), set[str](), hashlib.sha256()
    known, made = _read(_path(folder, 0)), dict[str, list[Found]]()
    for number, item in enumerate(images, 1):
        if isinstance(item, Reject):
            done.rejects.append(item)
        else:
            name = _digest(models, item)
            found = known.get(name) or list(make(item))
            made[name] = found
            done.images += 1
            for one in found:
                _count(done, one, ids, whole)
        on_image(number)
        if number % IMAGES_PER_PART == 0:
            if list(made) != list(known):
                _write(_path(folder, done.parts), made)
            done.parts += 1
            known, made = _read(_path(folder, done.parts)), {}
    done.last, done.digest = _flat(made), whole.hexdigest()
    return done


def _count(done: Collected, item: Found, ids: set[str], whole: Any) -> None:
    if isinstance(item, Reject):
        done.rejects.append(item)
    elif item.id in ids:
        again = "the same mark again"
        done.rejects.append(Reject(caption_id=item.caption_id, caption="", noun=item.noun, reason=again))
    else:
        ids.add(item.id)
        whole.update(item.id.encode() + item.vector.tobytes())
        done.count += 1


def _digest(models: str, image: MarkedImage) -> str:
    digest = hashlib.sha256(models.encode())
    for part in (image.pixels, *(mark.mask for mark in image.marks)):
        digest.update(repr((part.shape, part.dtype)).encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr((image.name, [mark.name for mark in image.marks])).encode())
    return digest.hexdigest()


def _parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _PART.fullmatch(path.name)] if folder.is_dir() else []


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _flat(found: Mapping[str, list[Found]]) -> list[Found]:
    return [item for items in found.values() for item in items]


def _write(path: Path, made: Mapping[str, list[Found]]) -> None:
    rows = [
        {"image": image, **{name: getattr(item, name, None) for name in _COLUMNS}}
        for image, items in made.items()
        for item in items
    ]
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), partial)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {reason(error)}") from error


def _read(path: Path) -> dict[str, list[Found]]:
    """What each image of a part gave; nothing where there is no such part."""
    if not path.exists():
        return {}
    try:
        rows = parquet_table(path.read_bytes()).cast(_SCHEMA).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise OutputError(
            f"'{path}' cannot be read: {error}; remove it, and run the command again"
        ) from error
    found: dict[str, list[Found]] = {}
    for row in rows:
        found.setdefault(row.pop("image"), []).append(_item(row))
    return found


def _item(row: dict[str, Any]) -> Found:
    why = row.pop("reason")
    if why is not None:
        return Reject(caption_id=row["caption_id"], caption="", noun=row["noun"], reason=why)
    return Prototype(**{**row, "key": np.float32(row["key"]), "vector": np.float32(row["vector"])})
