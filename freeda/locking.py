"""One writer at a time for a folder of this machine."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from freeda.errors import OutputError, reason

__all__ = ["locked"]

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing `folder` inside the block; the lock ends with the process.

    wait: whether to wait for another run that writes the folder.
    Warns where the file system has no locks. Raises `OutputError` where another run writes the folder.
    """
    file = _lock_file(folder)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise OutputError(
            f"another run is writing '{folder}'; wait until it has ended, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OutputError(f"cannot write '{file}': {reason(error)}") from error
        warnings.warn(f"'{folder}' cannot be locked; make sure that no other run writes it", stacklevel=3)
    try:
        yield
    finally:
        with suppress(OSError):  # a file that is left behind locks nothing
            file.unlink()
        lock.release()


def _lock_file(folder: Path) -> Path:
    """Beside the folder, which may be swapped while it is locked; inside it where the parent is another file
    system or cannot be written.
    """
    folder = folder.resolve()
    beside = os.access(folder.parent, os.W_OK) and not os.path.ismount(folder)
    return folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"
