"""Paths that a command is given, checked before anything is imported that takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

import click

from freeda.errors import OutputError

__all__ = ["optional_out_folder", "out_folder", "require_writable"]


def require_writable(out: str | Path) -> None:
    """Refuses an empty --out, and raises `OutputError` for a folder of this machine that cannot be made or
    written.
    """
    if not str(out).strip():
        raise click.BadParameter("it is empty; name a folder", param_hint="--out")
    if "://" in str(out):
        return
    folder = Path(out).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not existing.is_dir():
        raise OutputError(f"cannot create '{out}': '{existing}' is no folder; choose another --out")
    if not os.access(existing, os.W_OK):
        raise OutputError(f"cannot write to '{existing}': Permission denied; choose another --out")


def out_folder(context: click.Context, parameter: click.Parameter, value: str) -> Path:
    """The value of an option --out: a folder of this machine that can be written."""
    require_writable(value)
    return Path(value)


def optional_out_folder(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """As `out_folder`; None where the option was not given."""
    return None if value is None else out_folder(context, parameter, value)
