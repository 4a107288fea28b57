"""Imports the prototypes that FreeDA's authors published: a folder of .npy vectors and a FAISS index.

Row i of the FAISS index is the key of the i-th .npy file by name. Keys and vectors are joined once, checked,
and written as an index of this project's format.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from freeda.errors import CaptionsError, IndexCorruptError, IndexMismatchError
from freeda.index.format import Manifest
from freeda.index.keys import KeyOptions, read_header, read_plain
from freeda.index.placing import require_free
from freeda.index.writer import Origin
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.models.loading import choose_device
from freeda.presets import Preset
from freeda.records import Prototype, Reject
from index_build.captions.cutting import shard_name
from index_build.config import ROLES
from index_build.finalize import finish
from index_build.generation.outcome import ShardOutcome
from index_build.store.folders import BuildFolder, exclusive
from index_build.store.shards import ShardRecord, read_state, write_shard
from index_build.store.storage import Folder

__all__ = ["import_upstream"]

_CHUNK = 4096
_NORM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class _Upstream:
    """What is imported. names: of vector files, in the order of the keys; width: of the vectors."""

    embeddings: Path
    names: Sequence[str]
    keys: faiss.Index
    width: int


def import_upstream(
    embeddings: Path,
    knn_index: Path,
    out: Path,
    preset: Preset,
    *,
    overwrite: bool = False,
    chunk: int = _CHUNK,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Writes the index `out`. Called again after an interruption, it resumes.

    preset: names the CLIP and the backbone that made the prototypes; both are loaded, to check widths and to
        keep their fingerprints.
    on_progress: called with vectors done and in all. Vectors that are not finite become rejects.
    Raises `CaptionsError`, `IndexCorruptError`, `IndexMismatchError`, `OutputError`.
    """
    target = Folder(out)
    target.prepare()
    require_free(target.names(), str(target))
    names, keys = _vector_files(embeddings), _open_keys(knn_index)
    if keys.ntotal != len(names):
        raise IndexCorruptError(
            f"'{embeddings}' holds {len(names):,} vectors, '{knn_index}' {keys.ntotal:,} keys; every key "
            f"needs its vector: complete the download"
        )
    models, width = _models(preset, keys.d, knn_index)
    upstream = _Upstream(embeddings, names, keys, width)
    target.prepare()
    with exclusive(target):
        folder = BuildFolder(target, _content(upstream, knn_index, preset, models, chunk))
        if (there := folder.finished(overwrite=overwrite)) is not None:
            folder.remove_work()
            return there
        work = folder.open_work()
        records = list(_import_shards(upstream, work, chunk, on_progress))
        origin = Origin(
            preset=preset.shareable().as_dict(), models=models, build=folder.content, build_id=folder.build_id
        )
        return finish(folder, work, records, origin, KeyOptions())


def _import_shards(
    upstream: _Upstream, work: Folder, chunk: int, on_progress: Callable[[int, int], None]
) -> Iterator[ShardRecord]:
    finished, total = read_state(work).records, len(upstream.names)
    for number, start in enumerate(range(0, total, chunk)):
        name, stop = shard_name(number), min(start + chunk, total)
        record = finished.get(name)
        if record is None:
            record = write_shard(work, name, stop - start, _read_chunk(upstream, start, stop))
        yield record
        on_progress(stop, total)


def _vector_files(folder: Path) -> list[str]:
    """File names in the order in which the authors' code joined them to the index."""
    if not folder.is_dir():
        raise CaptionsError(f"no folder '{folder}'; expected one .npy file per prototype")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".npy"))
    if not names:
        raise CaptionsError(f"'{folder}' holds no .npy file; expected one per prototype")
    return names


def _open_keys(path: Path) -> faiss.Index:
    try:
        read_header(path)
        keys = read_plain(path)
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise IndexCorruptError(f"'{path}' cannot be read as FreeDA's index of keys: {why}") from error
    return keys


def _models(preset: Preset, key_width: int, path: Path) -> tuple[Mapping[str, str], int]:
    """Fingerprints, and the width of the backbone's features."""
    cpu = choose_device("cpu")
    clip, backbone = (
        load_clip(preset.model_ids("clip"), cpu),
        load_backbone(preset.model_ids("backbone"), cpu),
    )
    expected = clip.embed_texts(["a photo"]).shape[1]
    if key_width != expected:
        raise IndexMismatchError(
            f"'{path}' holds {key_width}-d keys, the CLIP of preset '{preset.name}' gives {expected}-d; name "
            f"the preset whose models made them"
        )
    models = {
        "diffusion": "unknown (imported)",
        "clip": clip.fingerprint(),
        "backbone": backbone.fingerprint(),
        "precision": "unknown (imported)",
    }
    return models, backbone.width


def _read_chunk(upstream: _Upstream, start: int, stop: int) -> ShardOutcome:
    outcome = ShardOutcome()
    found = upstream.keys.reconstruct_n(start, stop - start)
    norms = np.linalg.norm(found, axis=1)
    if not (np.abs(norms - 1) < _NORM_TOLERANCE).all():
        worst = int(np.abs(norms - 1).argmax())
        raise IndexCorruptError(
            f"key {start + worst} has length {norms[worst]:.3f}; expected unit vectors: is it FreeDA's index?"
        )
    names = upstream.names[start:stop]
    for row, (name, key) in enumerate(zip(names, found / norms[:, None], strict=True)):
        stem = name.removesuffix(".npy")
        vector = _read_vector(upstream.embeddings / name, upstream.width)
        with np.errstate(over="ignore"):
            kept = vector.astype(np.float16)  # as the index stores it
        if not np.isfinite(kept).all():
            reject = Reject(caption_id=stem, caption="", noun="", reason="vector not finite")
            outcome.rejects.append(reject)
            continue
        outcome.prototypes.append(_prototype(start + row, stem, key, vector))
    return outcome


def _read_vector(path: Path, width: int) -> np.ndarray:
    if not path.is_file():
        raise IndexCorruptError(f"'{path}' is no file")
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexCorruptError(f"'{path}' is no readable .npy file: {error}") from error
    flat = np.asarray(vector).reshape(-1)
    if len(flat) != width or flat.dtype.kind != "f":
        raise IndexMismatchError(
            f"'{path}' holds {np.asarray(vector).shape} {flat.dtype}; the preset's backbone gives {width} "
            f"numbers"
        )
    return flat.astype(np.float32)


def _prototype(row: int, stem: str, key: np.ndarray, vector: np.ndarray) -> Prototype:
    """What was not published (caption, mask, image) stays empty."""
    return Prototype(
        id=f"{row}",
        noun=stem,
        caption_id=stem,
        caption="",
        key=key.astype(np.float32),
        vector=vector,
        area=float("nan"),
        peak=float("nan"),
        seed=-1,
        thumbnail=b"",
    )


def _content(
    upstream: _Upstream, knn_index: Path, preset: Preset, models: Mapping[str, str], chunk: int
) -> dict[str, Any]:
    """Everything that decides the index, as `BuildConfig.content` gives it for a build."""
    digest = hashlib.sha256()
    for part in _identities([knn_index, *(upstream.embeddings / name for name in upstream.names)]):
        digest.update(part.encode())
    return {
        "imported_from": {"embeddings": upstream.embeddings.name, "knn_index": knn_index.name},
        "files": digest.hexdigest(),
        "chunk": chunk,
        "preset": {"models": {role: list(preset.shareable().model_ids(role)) for role in ROLES}},
        "weights": dict(models),
    }


def _identities(paths: Sequence[Path]) -> Iterator[str]:
    """Names, sizes and times: reading millions of files twice would take hours."""
    for path in paths:
        status = path.stat()
        yield f"{path.name} {status.st_size} {status.st_mtime_ns}\n"
