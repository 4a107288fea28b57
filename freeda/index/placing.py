"""Where a new index goes: an empty or new folder, or one that holds an index. All else is somebody's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from freeda.errors import OutputError
from freeda.files import sync
from freeda.index.format import FILES, KEYS, MANIFEST, PROTOTYPES, REPORT
from freeda.locking import locked

__all__ = ["copy_index", "holds_index", "placed", "require_free"]

_NEW = ".new"
_OWN = (".work", _NEW, ".lock", "progress.jsonl")
"""What a build leaves in its folder before the index is there."""


def holds_index(names: Collection[str]) -> bool:
    """Whether the files of a folder are an index, or what is left of one that was being replaced."""
    return len({MANIFEST, KEYS, PROTOTYPES}.intersection(names)) > 1


def require_free(names: Collection[str], folder: str) -> None:
    """Raises `OutputError` where a folder's files are neither an index nor what a build leaves.

    names: of everything in the folder.
    """
    strange = sorted(name for name in names if name not in _OWN and not name.endswith(".partial"))
    if strange and not holds_index(names):
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise OutputError(
            f"'{folder}' is no index and holds other files ({strange[0]}{more}), which an index could "
            f"replace; name an empty or new folder"
        )


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """An empty folder for a new index; when the block ends, its files take their places in `folder`.

    Until then an index that lies there stays whole: a full disk, or an error in the block, costs nothing.
    """
    new = folder / _NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        (folder / MANIFEST).unlink(missing_ok=True)
        (folder / REPORT).unlink(missing_ok=True)
        for name in (*FILES, REPORT, MANIFEST):
            if (new / name).exists():
                os.replace(new / name, folder / name)
        if os.name == "posix":
            sync(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def copy_index(source: Path, folder: Path, *, overwrite: bool) -> None:
    """Copies an index's files into a folder; raises `OutputError` where another index or other files lie."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        names = [path.name for path in folder.iterdir()]
        require_free(names, str(folder))
        if MANIFEST in names and not overwrite:
            raise OutputError(
                f"'{folder}' holds an index; replace it with --overwrite, or choose another --out"
            )
        with placed(folder) as new:
            for name in (*FILES, MANIFEST):
                shutil.copyfile(source / name, new / name)
