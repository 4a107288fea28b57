"""The numbers of FlowSeg: those that its weights depend on, and those that may change with every call."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from freeda.presets.settings import is_number, require, require_positive

__all__ = ["CENTROIDS", "OBJECTIVES", "Centroids", "FlowSegSettings", "NetworkSettings", "Objective"]

Centroids = Literal["kronecker", "golden", "random", "text"]
CENTROIDS: tuple[str, ...] = get_args(Centroids)
Objective = Literal["reshaped", "plain", "cross-entropy"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
_SECTION = "methods.flowseg"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What a trained network is. A checkpoint holds it. Defaults are the paper's large model (PixNerd-L).

    side: pixels to which an image's shorter side is resized.
    patch: side in pixels of the square that a token stands for.
    width, blocks, heads: of the transformer.
    field_width, field_blocks, field_ratio: channels of the neural field that decodes a token into its pixels,
        its blocks, and how many times wider their inner layers are.
    align_block: the block whose tokens are compared with a self-supervised backbone's features in training,
        counted from 1.
    align_width: channels of these features; 0 for none.
    classifier: whether a linear layer tells the classes of these tokens too, in training only.
    centroids: how the points that stand for classes are placed: "kronecker" (the paper's), "golden",
        "random", or "text", by CLIP's embeddings of the names.
    dimensions: of that space, 3 or more; images lie in its first three.
    epsilon, temperature: of the probabilities that follow from distances to the centroids.
    objective: "reshaped" is the paper's; "plain" is flow matching without what attracts and repels;
        "cross-entropy" is none, but a classifier by distance in one step.
    """

    side: int = 512
    patch: int = 16
    width: int = 1024
    blocks: int = 22
    heads: int = 16
    field_width: int = 64
    field_blocks: int = 2
    field_ratio: int = 2
    align_block: int = 8
    align_width: int = 768
    classifier: bool = False
    centroids: Centroids = "kronecker"
    dimensions: int = 3
    epsilon: float = 1e-3
    temperature: float = 1.0
    objective: Objective = "reshaped"

    def __post_init__(self) -> None:
        sizes = [item.name for item in fields(self) if item.type == "int" and item.name != "align_width"]
        require_positive(self, _SECTION, *sizes)
        for name in ("epsilon", "temperature"):
            self._require(name, is_number(getattr(self, name), above=0), "above 0")
        self._require("side", self.side % self.patch == 0, f"a multiple of the patch, {self.patch}")
        even = self.width % self.heads == 0 and self.width // self.heads % 4 == 0
        self._require("heads", even, "a divisor of the width that leaves each head a multiple of 4 channels")
        self._require("align_block", self.align_block <= self.blocks, f"at most {self.blocks}, the blocks")
        whole = isinstance(self.align_width, int) and self.align_width >= 0
        self._require("align_width", whole, "a whole number, 0 or more")
        self._require("classifier", isinstance(self.classifier, bool), "true or false")
        self._require("centroids", self.centroids in CENTROIDS, ", ".join(CENTROIDS))
        self._require("objective", self.objective in OBJECTIVES, ", ".join(OBJECTIVES))
        self._require("dimensions", self.dimensions >= 3, "3 or more")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"{_SECTION}.{name}", getattr(self, name), expected)


@dataclass(frozen=True, kw_only=True)
class FlowSegSettings:
    """What may change with every call.

    steps: of Euler's method from the image to the centroids.
    background: probability that a class must exceed.
    """

    steps: int = 10
    background: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, _SECTION, "steps")
        number = is_number(self.background)
        require(number, f"{_SECTION}.background", self.background, "a number")
