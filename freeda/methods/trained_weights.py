"""What a trained method is loaded with: its weights, and the settings that a preset has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from freeda.methods.base import SETTING_NAMES, as_preset
from freeda.models.checkpoint import Checkpoint
from freeda.presets import Preset
from freeda.presets.toml import changed

__all__ = ["TrainedWeights", "find_weights", "split_settings"]

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class TrainedWeights:
    """A folder of weights, and the preset that they are used with.

    usual: the preset's settings of the method, without those that the network depends on.
    """

    folder: str
    checkpoint: Checkpoint
    preset: Preset
    usual: Mapping[str, Any]

    def settings(self, defaults: Settings, options: Mapping[str, Any]) -> Settings:
        """The settings of a call: the options', else the preset's, else the defaults.

        Raises `ConfigError`.
        """
        owner = f"method {self.checkpoint.method}"
        return changed(changed(defaults, self.usual, owner), options, owner, SETTING_NAMES)

    def network_settings(self, defaults: Settings) -> Settings:
        """Those that the network was trained with; raises `ConfigError` for unknown ones."""
        return changed(defaults, self.checkpoint.settings, f"checkpoint '{self.folder}'")

    def require_frozen(self, fingerprints: Mapping[str, str]) -> None:
        """Raises `ConfigError` unless the frozen models are those of the training."""
        self.checkpoint.require_frozen(self.folder, fingerprints)


def find_weights(
    method: str, weights: str | Path | None, preset: str | Preset | None, network: type
) -> TrainedWeights:
    """The weights in a folder, or the preset's own where none is named.

    preset: None for the one that the weights were trained with.
    network: the class of the settings that the network depends on.
    Raises `ConfigError`, `ModelNotFoundError`.
    """
    folder = str(weights) if weights is not None else as_preset(preset or "toy").model_ids(method)[0]
    checkpoint = Checkpoint.read(folder, method)
    chosen = as_preset(preset or checkpoint.preset)
    _, usual = split_settings(chosen, method, network)
    return TrainedWeights(folder, checkpoint, chosen, usual)


def split_settings(preset: Preset, method: str, network: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """A preset's settings of a method: those that are fields of `network`, and all others."""
    table, names = preset.methods.get(method, {}), {item.name for item in fields(network)}
    own = {name: value for name, value in table.items() if name in names}
    return own, {name: value for name, value in table.items() if name not in names}
