"""DiffSegmenter (Wang et al., arXiv 2309.02773): segmentation by a diffusion model's attention, without an
index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from freeda.methods.base import SETTING_NAMES, as_preset, require_switch
from freeda.methods.diffsegmenter.method import ClassPrompts, DiffSegmenterMethod, EncodedImage
from freeda.methods.diffsegmenter.settings import DiffSegmenterSettings
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.models.loading import choose_device, chosen_dtype, default_dtype
from freeda.presets import Preset
from freeda.presets.toml import changed

__all__ = ["load"]

DiffSegmenter = MethodSegmenter[np.ndarray, EncodedImage, ClassPrompts]


def load(
    *, preset: str | Preset = "toy", device: str = "auto", background: bool = False, **settings: Any
) -> DiffSegmenter:
    """Loads the diffusion model and the CLIP of a preset.

    background: whether pixels of none of the classes are labelled as background.
    settings: single fields of `DiffSegmenterSettings`, such as `timestep=200`; the background's score as
        `threshold`. They override the preset's.
    """
    require_switch(background)
    chosen = as_preset(preset)
    synthesis = chosen.synthesis
    base = DiffSegmenterSettings(height=synthesis.height, width=synthesis.width)
    base = changed(base, chosen.methods.get("diffsegmenter", {}), "method diffsegmenter")
    base = changed(base, settings, "method diffsegmenter", SETTING_NAMES)
    torch_device = choose_device(device)
    method = DiffSegmenterMethod(
        load_pipeline(
            chosen.model_ids("diffusion"), torch_device, chosen_dtype(synthesis.precision, torch_device)
        ),
        load_clip(chosen.model_ids("clip"), torch_device, default_dtype(torch_device)),
        chosen.segmentation.templates,
        base,
        background=background,
    )
    return MethodSegmenter(method, threads=1)  # the UNet takes seconds per image: one read ahead is enough
