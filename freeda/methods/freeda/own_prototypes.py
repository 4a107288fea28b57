"""Prototypes of somebody's own images: pooled in the masks that were drawn on them, keyed by their names."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import torch

from freeda.class_names import ClassName
from freeda.errors import DatasetError, OutputError, reason
from freeda.index.editing import merge, require_place, write_new
from freeda.index.format import Manifest, reject_table
from freeda.index.keys import KeyOptions
from freeda.index.reader import PrototypeIndex
from freeda.index.writer import Origin
from freeda.locking import locked
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.own_parts import Collected, collect
from freeda.presets.settings import FreedaSettings
from freeda.records import PHOTOGRAPH, Prototype, Reject
from freeda.segmentation.marked_images import MarkedImage
from freeda.segmentation.regions import pool_mask
from freeda.segmentation.thumbnails import thumbnail

__all__ = ["Added", "add_images", "add_prototypes", "of_image"]

_THUMBNAIL = 64
"""Longer side in pixels."""


@dataclass(frozen=True)
class Added:
    """A new index's manifest; how many images gave how many prototypes; and what gave none."""

    manifest: Manifest
    images: int
    prototypes: int
    rejects: tuple[Reject, ...]


def add_images(
    method: FreedaMethod,
    images: Iterable[MarkedImage | Reject],
    out: str | Path,
    *,
    alone: bool = False,
    keys: KeyOptions | None = None,
    overwrite: bool = False,
    on_image: Callable[[int], object] = lambda done: None,
) -> Added:
    """Writes a new index: that of a method, and the prototypes of some images.

    images: read one after the other. Of many, what is done is kept beside `out`, as `OUT.parts`, until the
        index is written: the same call goes on after an interruption.
    alone: whether the new index holds the images' prototypes only.
    keys: how they are indexed; None chooses the kind by their number.
    on_image: called after each, with how many are done.
    Raises `DatasetError` where no mark gives a prototype, and `OutputError`.
    """
    require_place(out, [method.index], overwrite=overwrite)  # before hours of work, not after
    built, place = method.index.preset.segmentation, Path(out)
    precision = str(method.backbone.dtype)
    models = repr((method.index.manifest.fingerprints, precision, built.dense_size, built.templates))
    parts = place.with_name(f"{place.name}.parts")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the index to '{out}': {reason(error)}") from error
    with locked(parts):
        found = collect(parts, models, images, lambda image: of_image(method, image, built), on_image)
        if not found.count:
            found.remove()
            raise DatasetError(_nothing(found.images, found.rejects))
        manifest = _written(method.index, found, out, alone, keys, overwrite)
        found.remove()
    new = manifest.prototypes - (0 if alone else len(method.index))
    return Added(manifest, found.images, new, tuple(found.rejects))


def add_prototypes(index: PrototypeIndex, prototypes: Sequence[Prototype], out: str | Path) -> Manifest:
    """Writes a new index: another one, and prototypes of own images. Raises `OutputError`."""
    digest = hashlib.sha256(b"".join(item.id.encode() + item.vector.tobytes() for item in prototypes))
    images = len({item.caption_id for item in prototypes})
    return _beside(index, prototypes, reject_table([]), _origin(index, images, digest.hexdigest()), out)


def _written(
    index: PrototypeIndex,
    found: Collected,
    out: str | Path,
    alone: bool,
    keys: KeyOptions | None,
    overwrite: bool,
) -> Manifest:
    origin, table = _origin(index, found.images, found.digest), reject_table(found.rejects)
    if alone:
        return write_new(out, found.prototypes(), table, 0, origin, keys, overwrite=overwrite)
    return _beside(index, found.prototypes(), table, origin, out, keys, overwrite)


def _beside(
    index: PrototypeIndex,
    prototypes: Iterable[Prototype],
    rejects: pa.Table,
    origin: Origin,
    out: str | Path,
    keys: KeyOptions | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes an index, and others' prototypes after its own."""
    with TemporaryDirectory() as work:
        own = Path(work) / "own"
        write_new(own, prototypes, rejects, 0, origin, keys)
        return merge([index, PrototypeIndex.open(own)], out, keys=keys, overwrite=overwrite).manifest


def _nothing(images: int, rejects: Sequence[Reject]) -> str:
    reasons = Counter(item.reason for item in rejects).most_common(1)
    why = f", most often because: {reasons[0][0]}" if reasons else ""
    return f"{images} images gave no prototype{why}; expected images on which something is marked"


def _origin(index: PrototypeIndex, images: int, digest: str) -> Origin:
    build = {"photographs": {"images": images, "sha256": digest}}
    return Origin(
        preset=index.manifest.preset,
        models=index.manifest.fingerprints,
        build=build,
        build_id=hashlib.sha256(json.dumps(build, sort_keys=True).encode()).hexdigest()[:16],
    )


def of_image(method: FreedaMethod, image: MarkedImage, built: FreedaSettings) -> Iterator[Prototype | Reject]:
    """A prototype per mark of an image, or why there is none. built: what the index was built with."""
    if not image.marks:
        yield _reject(image.name, "", "nothing is marked")
        return
    pixels = torch.tensor(image.pixels).permute(2, 0, 1)[None].float() / 255
    features = method.backbone.dense_features(pixels, built.dense_size)[0]
    content = hashlib.sha256(image.pixels.tobytes() + repr(image.pixels.shape).encode())
    for mark in image.marks:
        name = unicodedata.normalize("NFC", " ".join(mark.name.split()))
        mask = np.asarray(mark.mask, bool)
        why = _unusable(name, mask, image, features)
        vector = None if why else pool_mask(features, mask).cpu().numpy().astype(np.float32)
        if vector is not None and not np.isfinite(vector.astype(np.float16)).all():
            why = "feature is not finite"
        if vector is None or why:
            yield _reject(image.name, name, why)
            continue
        marked = content.copy()
        marked.update(np.packbits(mask).tobytes())
        yield Prototype(
            id=f"{marked.hexdigest()[:12]}/{name}",
            noun=name,
            caption_id=image.name,
            caption="",
            key=method.clip.embed_classes([ClassName(name)], built.templates)[0],
            vector=vector,
            area=float(mask.mean()),
            peak=1.0,
            seed=0,
            thumbnail=thumbnail(image.pixels, mask, _THUMBNAIL),
            source=PHOTOGRAPH,
        )


def _reject(image: str, noun: str, why: str) -> Reject:
    return Reject(caption_id=image, caption="", noun=noun, reason=why)


def _unusable(name: str, mask: np.ndarray, image: MarkedImage, features: torch.Tensor) -> str:
    """Why a mark gives no prototype; empty where it does."""
    if mask.shape != image.pixels.shape[:2]:
        size, expected = (" x ".join(map(str, shape[:2][::-1])) for shape in (mask.shape, image.pixels.shape))
        return f"mask is {size} px, the image {expected}"
    if not mask.any():
        return "mask is empty"
    if mask.sum() < mask.size / (features.shape[-2] * features.shape[-1]):
        return "mask is smaller than a patch of the backbone"
    return "" if name else "mark has no name"
