"""Takes over prototypes that FreeDA's authors published: a folder of .npy vectors and a FAISS index.

Row i of the FAISS index is the key of the i-th .npy file in the order of file names. Here keys and
vectors are joined once, checked, and written as an index of this project's format.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from freeda.presets.settings import Preset
from freeda.errors import CaptionsError, IndexCorruptError, IndexMismatchError
from freeda.index.format import Manifest
from freeda.index.writer import Origin
from freeda.models.loading import choose_device
from freeda.records import Prototype, Reject
from freeda.models.clip import load_clip
from freeda.models.backbone import load_backbone
from index_build.config import fingerprint
from index_build.finalize import finalize
from index_build.store.folders import alone, check_target, open_work, remove_work
from index_build.generation.outcome import ShardOutcome
from index_build.store.shards import read_state, write_shard
from index_build.captions.cutting import shard_name
from index_build.store.storage import Place

__all__ = ["import_upstream"]

_CHUNK = 4096
_NORM_TOLERANCE = 1e-2


def import_upstream(
    embeddings: Path,
    knn_index: Path,
    out: Path,
    preset: Preset,
    *,
    overwrite: bool = False,
    chunk: int = _CHUNK,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Writes the index `out`; called again after an interruption, it goes on.

    preset: names the CLIP and the backbone that the prototypes were made with; both are loaded, for
    their widths are checked and their fingerprints kept. Vectors that are not finite become rejects.
    Raises `CaptionsError`, `IndexCorruptError`, `IndexMismatchError`, `OutputError`.
    """
    names = _vector_files(embeddings)
    keys = _open_keys(knn_index)
    if keys.ntotal != len(names):
        raise IndexCorruptError(
            f"'{embeddings}' holds {len(names):,} vectors, '{knn_index}' {keys.ntotal:,} keys; every key "
            f"needs its vector: complete the download"
        )
    models, width = _models(preset, keys.d, knn_index)
    target = Place(out)
    target.prepare()
    with alone(target):
        content = _content(embeddings, names, knn_index, preset, models, chunk)
        name = fingerprint(content)
        if (there := check_target(target, name, content, overwrite)) is not None:
            remove_work(target, name)
            return there
        work = open_work(target, name, content)
        finished, reports = read_state(work).reports, []
        for number, start in enumerate(range(0, len(names), chunk)):
            part = names[start : start + chunk]
            report = finished.get(shard_name(number))
            if report is None:
                outcome = _read_chunk(embeddings, part, keys, start, width)
                report = write_shard(work, shard_name(number), len(part), outcome)
            reports.append(report)
            progress(start + len(part), len(names))
        origin = Origin(preset=preset.as_dict(), models=models, build=content, fingerprint=name)
        manifest = finalize(target, work, reports, origin)
        remove_work(target, name)
        return manifest


def _vector_files(folder: Path) -> list[str]:
    """File names in the order in which the authors' code joined them to the index."""
    if not folder.is_dir():
        raise CaptionsError(f"no folder '{folder}'; expected one .npy file a prototype")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(".npy"))
    if not names:
        raise CaptionsError(f"'{folder}' holds no .npy file; expected one a prototype")
    return names


def _open_keys(path: Path) -> faiss.Index:
    try:
        keys = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise IndexCorruptError(f"'{path}' cannot be read by faiss: {error}") from error
    if keys.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexMismatchError(f"'{path}' does not compare by inner product; is it FreeDA's index of keys?")
    return keys


def _models(preset: Preset, key_width: int, path: Path) -> tuple[Mapping[str, str], int]:
    """Fingerprints, and the width of the backbone's features."""
    cpu = choose_device("cpu")
    clip, backbone = load_clip(preset.models.clip, cpu), load_backbone(preset.models.backbone, cpu)
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


def _read_chunk(folder: Path, names: list[str], keys: faiss.Index, start: int, width: int) -> ShardOutcome:
    outcome = ShardOutcome()
    found = keys.reconstruct_n(start, len(names))
    norms = np.linalg.norm(found, axis=1)
    if not (np.abs(norms - 1) < _NORM_TOLERANCE).all():
        worst = int(np.abs(norms - 1).argmax())
        raise IndexCorruptError(
            f"key {start + worst} has length {norms[worst]:.3f}; expected unit vectors: is it FreeDA's index?"
        )
    for row, (name, key) in enumerate(zip(names, found / norms[:, None], strict=True)):
        stem = name.removesuffix(".npy")
        vector = _read_vector(folder / name, width)
        with np.errstate(over="ignore"):
            kept = vector.astype(np.float16)  # as the index stores it
        if not np.isfinite(kept).all():
            reject = Reject(caption_id=stem, caption="", noun="", reason="vector not finite")
            outcome.rejects.append(reject)
            continue
        outcome.prototypes.append(_prototype(start + row, stem, key, vector))
    return outcome


def _read_vector(path: Path, width: int) -> np.ndarray:
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
    """What was not published (caption, mask, picture) stays empty."""
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
    embeddings: Path,
    names: list[str],
    knn_index: Path,
    preset: Preset,
    models: Mapping[str, str],
    chunk: int,
) -> dict[str, Any]:
    """All that decides what comes out, as `BuildConfig.content` says it of a build."""
    digest = hashlib.sha256()
    for part in _identities(embeddings, names, knn_index):
        digest.update(part.encode())
    return {
        "imported_from": {"embeddings": embeddings.name, "knn_index": knn_index.name},
        "files": digest.hexdigest(),
        "chunk": chunk,
        "preset": {"models": {kind: list(ids) for kind, ids in vars(preset.models).items()}},
        "weights": dict(models),
    }


def _identities(embeddings: Path, names: list[str], knn_index: Path) -> Iterator[str]:
    """Names, sizes and times: reading millions of files twice would take hours."""
    for path in (knn_index, *(embeddings / name for name in names)):
        status = path.stat()
        yield f"{path.name} {status.st_size} {status.st_mtime_ns}\n"
