"""Open-vocabulary segmentation by retrieval from a prototype index.

import freeda

model = freeda.load("toy")
model.set_classes(["cat,kitten", "dog", "grass"])
model.segment("photo.jpg").save("out")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeda.presets.settings import Preset
    from freeda.errors import FreedaError
    from freeda.index.reader import PrototypeIndex
    from freeda.methods.freeda.method import FreedaSegmenter
    from freeda.methods.freeda import load as load
    from freeda.presets import load_preset
    from freeda.segmentation.result import Segmentation

__version__ = "0.1.0"
__all__ = [
    "FreedaError",
    "FreedaSegmenter",
    "Preset",
    "PrototypeIndex",
    "Segmentation",
    "load",
    "load_preset",
]

_HOMES = {
    "FreedaError": "freeda.errors",
    "FreedaSegmenter": "freeda.methods.freeda.method",
    "Preset": "freeda.presets.settings",
    "PrototypeIndex": "freeda.index.reader",
    "Segmentation": "freeda.segmentation.result",
    "load": "freeda.methods.freeda.method",
    "load_preset": "freeda.presets",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: `import freeda` alone loads no model library."""
    if name not in _HOMES:
        raise AttributeError(f"module 'freeda' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
