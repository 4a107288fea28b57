"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

__all__ = [
    "BACKGROUND_CONCEPTS",
    "FACTORY",
    "OUT",
    "OVERWRITE",
    "column_options",
    "read_lines",
]

FACTORY = "FAISS factory of the keys, such as IVF4096_HNSW32,SQ8; else by their number."
BACKGROUND_CONCEPTS = (
    'What the background is made of: "sky; wall", a .txt file, usual or none; else the preset\'s'
)
OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace another index in --out.")
_COLUMNS = {
    "caption_column": "Column with the captions.",
    "id_column": "Column with their ids; else derived from the text.",
    "nouns_column": "Column with lists of nouns; skips tagging.",
}


def column_options(command: Callable) -> Callable:
    """Adds the options that name a parquet's columns."""
    for name, text in reversed(_COLUMNS.items()):
        command = click.option(f"--{name.replace('_', '-')}", help=text)(command)
    return command


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"'{path}' cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
