"""Open-vocabulary segmentation by retrieval from a prototype index.

import freeda

model = freeda.load("toy")
model.set_classes(["cat,kitten", "dog", "grass"])
model.segment("photo.jpg").save("out")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeda.errors import FreedaError
    from freeda.index.reader import PrototypeIndex
    from freeda.methods import load as load
    from freeda.methods.base import Segmenter
    from freeda.methods.freeda import add_images as add_images
    from freeda.methods.freeda import with_images as with_images
    from freeda.presets import Preset, load_preset
    from freeda.segmentation.drawing import draw_labels, draw_overlay
    from freeda.segmentation.evidence import Evidence
    from freeda.segmentation.evidence_sheet import draw_evidence
    from freeda.segmentation.marked_images import Mark, MarkedImage
    from freeda.segmentation.result import Segmentation

__version__ = "0.1.0"
__all__ = [
    "Evidence",
    "FreedaError",
    "Mark",
    "MarkedImage",
    "Preset",
    "PrototypeIndex",
    "Segmentation",
    "Segmenter",
    "add_images",
    "draw_evidence",
    "draw_labels",
    "draw_overlay",
    "load",
    "load_preset",
    "with_images",
]

_MODULES = {
    "Evidence": "freeda.segmentation.evidence",
    "FreedaError": "freeda.errors",
    "Mark": "freeda.segmentation.marked_images",
    "MarkedImage": "freeda.segmentation.marked_images",
    "Preset": "freeda.presets",
    "PrototypeIndex": "freeda.index.reader",
    "Segmentation": "freeda.segmentation.result",
    "Segmenter": "freeda.methods.base",
    "add_images": "freeda.methods.freeda",
    "draw_evidence": "freeda.segmentation.evidence_sheet",
    "draw_labels": "freeda.segmentation.drawing",
    "draw_overlay": "freeda.segmentation.drawing",
    "load": "freeda.methods",
    "load_preset": "freeda.presets",
    "with_images": "freeda.methods.freeda",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import freeda` loads no model library."""
    if name not in _MODULES:
        raise AttributeError(f"module 'freeda' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
