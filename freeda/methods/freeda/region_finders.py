"""The class-agnostic regions that FreeDA's settings name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from freeda.errors import ConfigError, reason
from freeda.methods.freeda.method import FindRegions, find_superpixels
from freeda.models.mask_proposals import MaskProposals, load_mask_proposals
from freeda.presets.settings import FreedaSettings, Preset
from freeda.records import Regions
from freeda.segmentation.partition import partition

__all__ = ["ProposedRegions", "region_finder"]


@dataclass(frozen=True)
class ProposedRegions:
    """Regions of proposed masks; superpixels where there is none."""

    propose: MaskProposals

    def __call__(self, image: np.ndarray, settings: FreedaSettings) -> Regions:
        return partition(self.propose(image), find_superpixels(image, settings).labels)

    def fingerprint(self) -> str:
        """Of the model's weights."""
        return self.propose.fingerprint()


def region_finder(
    settings: FreedaSettings, preset: Preset, device: torch.device, dtype: torch.dtype
) -> FindRegions:
    """What finds the regions of a window; loads a model where the settings ask for one.

    Raises `ConfigError`, `ModelNotFoundError`.
    """
    if settings.regions == "superpixels":
        return find_superpixels
    if settings.regions == "proposals":
        if "regions" not in preset.models:
            raise ConfigError(
                f"preset '{preset.name}' names no model of role regions, which propose masks; use preset "
                f'sd15-sam2 or sd15-eomt, or add one to [models]: regions = ["facebook/sam2.1-hiera-large"]'
            )
        points = settings.proposal_points
        return ProposedRegions(load_mask_proposals(preset.model_ids("regions"), device, dtype, points=points))
    return _imported(settings.regions)


def _imported(name: str) -> FindRegions:
    module, _, function = name.partition(":")
    try:
        found: Any = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"regions '{name}' cannot be imported: {reason(error)}; install it, or name its folder in "
            f"PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"regions '{name}' is no function of a window and the settings")
    return found
