"""Small indexes of random prototypes, for the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.torch import load_file, save_file

from freeda.index.writer import Origin
from freeda.index.writer import write_index as write_index_folder
from freeda.presets.settings import Preset
from freeda.records import Prototype


def random_prototypes(count: int, key_dim: int, vector_dim: int) -> list[Prototype]:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(count, key_dim)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    vectors = rng.normal(size=(count, vector_dim)).astype(np.float16).astype(np.float32)
    return [
        Prototype(
            id=f"{n}",
            noun=f"noun {n % 7}",
            caption_id=f"c{n // 2}",
            caption="a caption",
            key=keys[n],
            vector=vectors[n],
            area=0.25,
            peak=2.0,
            seed=n,
            thumbnail=b"webp",
        )
        for n in range(count)
    ]


def changed_copy(model: Path, folder: Path) -> Path:
    """A model's folder once more, with other weights in one of its tensors."""
    shutil.copytree(model, folder)
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    save_file({**weights, name: weights[name] + 0.1}, path)
    return folder


def write_index(
    folder: Path, prototypes: list[Prototype], preset: Preset, fingerprints: dict[str, str]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rejects = pa.table({"caption_id": ["x"], "caption": ["slowly"], "noun": [""], "reason": ["no nouns"]})
    origin = Origin(preset=preset.as_dict(), models=fingerprints, build={}, build_id="f")
    write_index_folder(folder, prototypes, rejects, len(prototypes), origin)
    return folder
