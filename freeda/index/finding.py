"""Where an index is looked for.

An address (`hf://...`, `https://...`) is fetched. A path (with a separator, or beginning with "." or "~")
names a folder. Any other name is looked for among the indexes of the package first, so that nothing that lies
in the current folder takes the place of one.
"""

from __future__ import annotations

from pathlib import Path

from freeda.errors import IndexCorruptError, IndexNotFoundError
from freeda.files import user_folder
from freeda.index.format import KEYS, MANIFEST, PROTOTYPES
from freeda.index.sharing.addresses import is_address

__all__ = ["find_index", "listed_indexes", "search_paths"]


def search_paths(name: str | Path) -> list[Path]:
    """Folders where an index is looked for, in order: those of a name, or the one of a path."""
    if isinstance(name, Path) or name != Path(name).name or name.startswith((".", "~")):
        return [Path(name).expanduser()]
    package = Path(__file__).parents[1]
    folders = [package / "indexes" / name]
    if (package.parent / "pyproject.toml").exists():
        folders.append(package.parent / "indexes" / name)
    return [*folders, user_folder() / "indexes" / name, Path("indexes") / name]


def listed_indexes() -> dict[str, str]:
    """The folders of the package's and the user's own indexes, by name."""
    found: dict[str, str] = {}
    for folder in search_paths("*"):
        places = sorted(folder.parent.glob("*")) if folder.parent.is_dir() else []
        found = {**{place.name: str(place) for place in places if (place / MANIFEST).is_file()}, **found}
    return found


def find_index(name: str | Path) -> Path:
    """The folder of an index given by name, path or address.

    Raises `IndexNotFoundError`, `IndexCorruptError`, and `RemoteError` for an address.
    """
    if is_address(name):
        from freeda.index.sharing.fetch import fetch_index

        return fetch_index(str(name))
    folders = search_paths(name)
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return folder
    for folder in folders:
        if folder.is_dir() and any((folder / part).exists() for part in (KEYS, PROTOTYPES)):
            raise IndexCorruptError(
                f"'{folder}' has no {MANIFEST}, so its build never finished; run the same "
                f"`freeda build-index` command again"
            )
    looked = ", ".join(map(str, folders))
    here = f" The folder of that name here is ./{name}." if (Path(name) / MANIFEST).is_file() else ""
    raise IndexNotFoundError(
        f"no index '{name}'; looked in {looked}.{here} Build one with "
        f"`freeda build-index CAPTIONS.parquet --out DIR`"
    )
