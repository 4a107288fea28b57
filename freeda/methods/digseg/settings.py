"""The numbers of DiGSeg: those that its weights depend on, and those that may change with every call."""

from __future__ import annotations

from dataclasses import dataclass

from freeda.presets.settings import is_number, require, require_positive

__all__ = ["DigSegSettings", "NetworkSettings"]

_SECTION = "methods.digseg"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What a trained network is, and what it is shown. A checkpoint holds it.

    side: pixels to which an image's shorter side is resized.
    multiple: both sides are multiples of this, in pixels: what autoencoder and UNet divide them by.
    prompt: the text of a class, with a {} for its name.
    text_path: whether CLIP's embedding of the name reaches every block of the UNet, besides its attention to
        the prompt.
    """

    side: int = 512
    multiple: int = 64
    prompt: str = "a photo of {}"
    text_path: bool = True

    def __post_init__(self) -> None:
        require_positive(self, _SECTION, "side", "multiple")
        self._require("side", self.side % self.multiple == 0, f"a multiple of {self.multiple}")
        text = isinstance(self.prompt, str) and self.prompt.count("{}") == 1
        self._require("prompt", text, "a text with one {} for the class name")
        self._require("text_path", isinstance(self.text_path, bool), "true or false")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"{_SECTION}.{name}", getattr(self, name), expected)


@dataclass(frozen=True, kw_only=True)
class DigSegSettings:
    """What may change with every call.

    steps: of denoising, for weights of the recipe "diffusion"; those of "one-step" take one.
    ensemble: masks that are drawn of a class and averaged, likewise.
    seed: of the noise that they begin with.
    decoded: classes whose masks are decoded, those that win most of the image in the latents; 0 for all.
    presence: probability by CLIP, over all classes, below which a class is not looked for; 0 looks for all.
    presence_power: a class's mask is multiplied by this power of that probability; 0 leaves it as it is.
    background: share of a mask, so multiplied, that a class must exceed.
    """

    steps: int = 10
    ensemble: int = 1
    seed: int = 0
    decoded: int = 32
    presence: float = 0.0
    presence_power: float = 0.0
    background: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, _SECTION, "steps", "ensemble")
        for name in ("seed", "decoded"):
            whole = isinstance(getattr(self, name), int) and getattr(self, name) >= 0
            self._require(name, whole, "a whole number, 0 or more")
        self._require("presence", is_number(self.presence, least=0, most=1), "between 0 and 1")
        power = is_number(self.presence_power, least=0)
        self._require("presence_power", power, "0 or more")
        self._require("background", is_number(self.background), "a number")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"{_SECTION}.{name}", getattr(self, name), expected)
