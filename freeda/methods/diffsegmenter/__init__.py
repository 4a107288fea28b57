"""DiffSegmenter (Wang et al., arXiv 2309.02773): segmentation by a diffusion model's attention, without an
index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from freeda.methods.base import SETTING_NAMES, Runtime, as_preset, require_switch
from freeda.methods.diffsegmenter.method import ClassPrompts, DiffSegmenterMethod, EncodedImage
from freeda.methods.diffsegmenter.settings import DiffSegmenterSettings
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.clip import load_clip
from freeda.models.diffusion import load_pipeline
from freeda.models.loading import chosen_dtype
from freeda.presets import Preset
from freeda.presets.toml import changed

__all__ = ["load"]

DiffSegmenter = MethodSegmenter[np.ndarray, EncodedImage, ClassPrompts]


def load(*, preset: str | Preset = "toy", background: bool = False, **options: Any) -> DiffSegmenter:
    """Loads the diffusion model and the CLIP of a preset.

    background: whether pixels of none of the classes are labelled as background.
    options: of the `Runtime`, such as `device` (the precision is the preset's unless one is given); and
        single fields of `DiffSegmenterSettings`, such as `timestep=200`, which override the preset's; the
        background's score as `threshold`.
    """
    require_switch(background)
    runtime = Runtime.taken_from(options)
    chosen = as_preset(preset)
    synthesis = chosen.synthesis
    base = DiffSegmenterSettings(height=synthesis.height, width=synthesis.width)
    base = changed(base, chosen.methods.get("diffsegmenter", {}), "method diffsegmenter")
    base = changed(base, options, "method diffsegmenter", SETTING_NAMES)
    device, given = runtime.torch_device, runtime.precision
    generation = chosen_dtype(synthesis.precision if given == "auto" else given, device)
    method = DiffSegmenterMethod(
        load_pipeline(chosen.model_ids("diffusion"), device, generation),
        load_clip(chosen.model_ids("clip"), device, runtime.dtype),
        chosen.segmentation.templates,
        base,
        background=background,
    )
    # The UNet takes seconds per image: one read ahead is enough.
    return MethodSegmenter(method, threads=runtime.threads or 1)
