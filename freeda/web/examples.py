"""The example scenes that the page offers."""

from __future__ import annotations

from freeda.toyworld.make_examples import EXAMPLES as _FOLDER

__all__ = ["EXAMPLES", "example_content"]

EXAMPLES = tuple(sorted(path.name for path in _FOLDER.glob("scene-*.png")))


def example_content(name: str) -> bytes | None:
    """The PNG file of an example; None for another name."""
    return (_FOLDER / name).read_bytes() if name in EXAMPLES else None
