"""A build that nothing disturbed, to compare others with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freeda.presets.settings import Preset
from freeda.index.format import FILES, MANIFEST
from freeda.presets.toml import to_toml
from freeda.presets import load_preset
from index_build import BuildConfig, build_index
from tests.conftest import CAPTIONS

SHARD_SIZE = 2


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (MANIFEST, *FILES)}


def write_captions(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"id": [f"c{n}" for n in range(len(texts))], "caption": texts}), path)
    return path


@pytest.fixture(scope="session")
def config(tiny_preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    """Through a file, as the command reads it: all these builds have one fingerprint."""
    path = tmp_path_factory.mktemp("preset") / "tiny.toml"
    path.write_text(to_toml(tiny_preset))
    return BuildConfig(preset=load_preset(str(path)), shard_size=SHARD_SIZE)


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captions(tmp_path_factory.mktemp("captions") / "captions.parquet", CAPTIONS)


@pytest.fixture(scope="session")
def undisturbed(config: BuildConfig, captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "index"
    build_index(str(captions), out, config, workers=1, device="cpu")
    return out
