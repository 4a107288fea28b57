"""The folder an index is built in: made, checked for another index, cleared of finished work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from freeda.errors import IndexCorruptError, OutputError
from freeda.index import MANIFEST, Manifest, PrototypeIndex

__all__ = ["check_target", "prepare_folder", "remove_work"]


def prepare_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create '{folder}': {error.strerror}; choose another --out") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to '{folder}'; choose another --out")
    return folder


def check_target(folder: Path, fingerprint: str, overwrite: bool) -> Manifest | None:
    """The finished index of this very build, if there; another build's is replaced on request only."""
    if not (folder / MANIFEST).exists() or overwrite:
        return None
    try:
        manifest = PrototypeIndex.open(folder).manifest
    except IndexCorruptError as error:
        raise OutputError(
            f"'{folder}' holds a damaged index ({error}); replace it with --overwrite"
        ) from error
    if manifest.build_fingerprint != fingerprint:
        raise OutputError(
            f"'{folder}' holds an index of other captions or settings (build "
            f"{manifest.build_fingerprint}, this one is {fingerprint}); replace it with --overwrite, "
            f"or choose another --out"
        )
    return manifest


def remove_work(work: Path) -> None:
    """Other builds' unfinished work beside it stays."""
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()
