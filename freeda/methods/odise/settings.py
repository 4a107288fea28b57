"""The numbers of ODISE: those that its weights depend on, and those that may change with every call."""

from __future__ import annotations

from dataclasses import dataclass, fields

from freeda.methods.odise.crops import CropGrid
from freeda.presets.settings import is_number, require, require_positive

__all__ = ["FULL_SIZE_TAPS", "NetworkSettings", "OdiseSettings"]

FULL_SIZE_TAPS = (
    "vae.encoder.down_blocks.2.resnets.1",
    "vae.encoder.down_blocks.3.resnets.1",
    "unet.up_blocks.0.resnets.2",
    "unet.up_blocks.1.resnets.2",
    "unet.up_blocks.2.resnets.2",
    "unet.up_blocks.3.resnets.2",
    "vae.decoder.up_blocks.0.resnets.2",
    "vae.decoder.up_blocks.1.resnets.2",
)
"""Of Stable Diffusion 1.x and 2.x: the blocks whose inputs the released code reads."""
_SECTION = "methods.odise"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What a trained network is, and what it is shown. A checkpoint holds it. Defaults are the released
    code's, for Stable Diffusion 1.x and 2.x.

    side: pixels to which an image's shorter side is resized.
    window: side in pixels of the crops that the diffusion model sees, which do not overlap.
    multiple: sides of the crops are multiples of this, in pixels.
    taps: blocks of the pipeline whose inputs are read, as `PART.PATH`.
    strides: of the four feature maps that are made of them, in pixels; each half as fine as the one before.
    tap_width, bottleneck: channels of these maps, and of the convolutions that make them.
    width: channels of the pixel decoder and of the queries.
    encoder_feedforward, feedforward: width of the feed-forward layers of pixel decoder and decoder.
    encoder_layers, decoder_layers: of the pixel decoder and of the transformer decoder.
    heads: of all attention.
    queries: masks that an image gets.
    captioner: whether the UNet is told an image's CLIP embedding; else it is given the empty text.
    timestep: to which latents are noised, 0 .. 999.
    noise_seed: of the noise, which all images share.
    """

    side: int = 1024
    window: int = 512
    multiple: int = 64
    taps: tuple[str, ...] = FULL_SIZE_TAPS
    strides: tuple[int, ...] = (4, 8, 16, 32)
    tap_width: int = 512
    bottleneck: int = 128
    width: int = 256
    feedforward: int = 2048
    encoder_feedforward: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 9
    heads: int = 8
    queries: int = 100
    captioner: bool = True
    timestep: int = 0
    noise_seed: int = 42

    def __post_init__(self) -> None:
        sizes = [item.name for item in fields(self) if item.type == "int"]
        positive = [name for name in sizes if name not in ("timestep", "noise_seed")]
        require_positive(self, _SECTION, *positive)
        self._require("window", self.window % self.multiple == 0, f"a multiple of {self.multiple}")
        named = isinstance(self.taps, tuple) and bool(self.taps) and all("." in tap for tap in self.taps)
        self._require("taps", named, "a list of PART.PATH")
        halved = [2 * stride for stride in self.strides[:-1]] == list(self.strides[1:]) != []
        self._require("strides", halved and len(self.strides) == 4, "four numbers, each twice the one before")
        whole = isinstance(self.timestep, int) and 0 <= self.timestep < 1000
        self._require("timestep", whole, "0 .. 999")
        self._require("noise_seed", isinstance(self.noise_seed, int), "a whole number")
        self._require("captioner", isinstance(self.captioner, bool), "true or false")
        for name in ("width", "tap_width", "bottleneck"):
            self._require(name, getattr(self, name) % 32 == 0, "a multiple of 32")
        self._require("heads", self.width % self.heads == 0, f"a divisor of the width, {self.width}")
        square = CropGrid.of((1, 1), side=self.side, window=self.window, multiple=self.multiple)
        fits = f"such as {square.size[0]}, whose crops are multiples of {self.multiple}"
        self._require("side", square.size == (self.side, self.side), fits)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"{_SECTION}.{name}", getattr(self, name), expected)


@dataclass(frozen=True, kw_only=True)
class OdiseSettings:
    """What may change with every call.

    seen_weight, unseen_weight: CLIP's share in the (geometric) mean of both branches' probabilities, for
        classes with a name among those that the network was trained on, and for others.
    clip_scale: images are enlarged so many times for CLIP's view of the masks.
    background: score that a class must exceed.
    overlap: least share of a mask's pixels that must be its own for it to become a segment.
    stuff: names of classes whose segments are joined; None for those that were stuff in training.
    instances: most instances per image.
    """

    seen_weight: float = 0.3
    unseen_weight: float = 0.7
    clip_scale: float = 1.0
    background: float = 0.5
    overlap: float = 0.8
    stuff: tuple[str, ...] | None = None
    instances: int = 100

    def __post_init__(self) -> None:
        require_positive(self, _SECTION, "instances")
        for name in ("seen_weight", "unseen_weight", "overlap"):
            self._require(name, is_number(getattr(self, name), least=0, most=1), "between 0 and 1")
        self._require("clip_scale", is_number(self.clip_scale, above=0), "above 0")
        self._require("background", is_number(self.background), "a number")
        listed = isinstance(self.stuff, tuple) and all(isinstance(name, str) for name in self.stuff)
        self._require("stuff", self.stuff is None or listed, "a list of names")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"{_SECTION}.{name}", getattr(self, name), expected)
