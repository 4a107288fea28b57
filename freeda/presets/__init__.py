"""Presets: which models, and the numbers that belong to them."""

from __future__ import annotations

from freeda.presets.builtin import PRESETS, load_preset
from freeda.presets.settings import Preset

__all__ = ["PRESETS", "Preset", "load_preset"]
