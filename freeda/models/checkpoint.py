"""The folder of a trained method's weights: what was trained, and which frozen models it stands on.

model.safetensors   the averaged weights of what was trained, in half precision; nothing frozen
config.json         method, recipe, preset, settings, classes, fingerprints of the frozen models
README.md           a card for people
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from freeda.errors import ConfigError, OutputError, reason
from freeda.files import replacing
from freeda.models.loading import resolve, weights_fingerprint

__all__ = ["CARD", "RUN", "Checkpoint"]

CARD = "README.md"
RUN = "training.json"
"""What a training's settings are kept in, beside its weights."""
_FORMAT = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a trained method's folder says of its weights.

    preset: whose models it was trained on.
    settings: of the method, those that decide the network.
    classes: names of every class that it was trained on; stuff: the first names of those without instances.
    frozen: fingerprints of the frozen models, by role.
    """

    method: str
    recipe: str
    preset: str
    settings: Mapping[str, Any]
    classes: tuple[tuple[str, ...], ...]
    stuff: tuple[str, ...]
    frozen: Mapping[str, str]

    @classmethod
    def read(cls, folder: str | Path, method: str) -> Checkpoint:
        """Raises `ConfigError` for a folder that is none, is damaged, or is another method's."""
        path = _home(folder) / _CONFIG
        if not path.is_file():
            if path.with_name(RUN).is_file():
                raise ConfigError(
                    f"the training in '{folder}' has not ended; run its command again, which resumes it"
                )
            raise ConfigError(
                f"'{folder}' holds no trained weights (no {_CONFIG}); name a folder that `freeda train` wrote"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != _FORMAT:
                raise ConfigError(f"'{path}' is of another format; train again, or use its version of freeda")
            found = _parsed(data)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"'{path}' is damaged ({reason(error)}); train again, or restore it") from error
        if found.method != method:
            raise ConfigError(f"'{folder}' holds weights of {found.method}; use --method {found.method}")
        return found

    def require_frozen(self, folder: str | Path, found: Mapping[str, str]) -> None:
        """Raises `ConfigError` unless the frozen models are those of the training."""
        changed = [role for role, digest in self.frozen.items() if found.get(role) != digest]
        if changed:
            raise ConfigError(
                f"'{folder}' was trained on another {changed[0]} model (fingerprint "
                f"{self.frozen[changed[0]]}, here {found.get(changed[0])}); load it with the preset it was "
                f"trained on, '{self.preset}', or train again"
            )

    def write(self, folder: Path, network: nn.Module) -> None:
        """Writes configuration and weights, each file whole; raises `OutputError`."""
        halves = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        try:
            with replacing(folder / _WEIGHTS) as partial:
                save_file(halves, partial)
            with replacing(folder / _CONFIG) as partial:
                partial.write_text(text, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"cannot write to '{folder}': {reason(error)}; make room and run the same command again"
            ) from error

    @staticmethod
    def load_weights(folder: str | Path, network: nn.Module) -> str:
        """Fills a network, and returns a fingerprint of its weights.

        Raises `ConfigError` for missing, extra or other tensors than the network has.
        """
        path = _home(folder) / _WEIGHTS
        try:
            held = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"weights '{path}' cannot be read ({reason(error)}); train again, or restore them"
            ) from error
        wanted = network.state_dict()
        different = [
            *(f"{name} is missing" for name in sorted(wanted.keys() - held.keys())),
            *(f"{name} is not of this network" for name in sorted(held.keys() - wanted.keys())),
            *(
                f"{name} is {tuple(held[name].shape)} instead of {tuple(wanted[name].shape)}"
                for name in sorted(held.keys() & wanted.keys())
                if held[name].shape != wanted[name].shape
            ),
        ]
        if different:
            raise ConfigError(
                f"weights '{path}' do not fit ({len(different)} tensors, first: {different[0]}); train again "
                f"with these settings"
            )
        network.load_state_dict({name: weight.to(torch.float32) for name, weight in held.items()})
        return weights_fingerprint(held)


def _parsed(data: Any) -> Checkpoint:
    """Raises `ValueError`, `KeyError` or `TypeError` for values of other types, and for others than known."""
    if unknown := sorted(data.keys() - {item.name for item in fields(Checkpoint)}):
        raise ValueError(f"'{unknown[0]}' is not known")
    texts = [data["method"], data["recipe"], data["preset"], *data["stuff"], *data["frozen"].values()]
    names = [name for names in data["classes"] for name in names]
    if not all(isinstance(text, str) for text in (*texts, *names)) or not isinstance(data["settings"], dict):
        raise ValueError("a value is of another type")
    classes = tuple(map(tuple, data["classes"]))
    return Checkpoint(**data | {"classes": classes, "stuff": tuple(data["stuff"])})


def _home(folder: str | Path) -> Path:
    """A `package:` folder, or a folder as it is."""
    return Path(resolve(str(folder)))
