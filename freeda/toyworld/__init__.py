"""The embedded default: scenes drawn by code, captions that describe them, small models trained on them."""

from __future__ import annotations

from freeda.toyworld.vocabulary import STUFF, THINGS

__all__ = ["STUFF", "THINGS"]
