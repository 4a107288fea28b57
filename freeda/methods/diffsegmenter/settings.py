"""The numbers of DiffSegmenter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from freeda.presets.settings import is_number, require, require_positive

__all__ = ["DiffSegmenterSettings", "PromptStyle"]

PromptStyle = Literal["single", "joint"]


@dataclass(frozen=True, kw_only=True)
class DiffSegmenterSettings:
    """Defaults are the released code's; `[methods.diffsegmenter]` of a preset changes them.

    height, width: pixels to which the image is squashed.
    timestep: to which it is noised, 0 .. 999.
    prompt: text with a {} for the class name.
    prompts: "single": one UNet pass per class, whose prompt names that class; "joint": prompts that name as
        many of the classes looked for as fit, so that the classes compete for attention.
    boost: of the class's tokens; their embeddings are moved so many times as far from those of an empty text.
    grid_weights: of cross-attention on grids of 8, 16, 32 and 64 positions a side.
    background: constant score of the background.
    presence: least softmax probability, by CLIP over all classes, of a class that is looked for. (The
        released code reads lists of present classes from files; this filter is ours.)
    presence_power: a class's map is multiplied by this power of that probability; 0 leaves it as it is.
    batch: prompts per UNet pass.
    seed: of the noise.
    """

    height: int
    width: int
    timestep: int = 100
    prompt: str = "a photograph of a {}"
    prompts: PromptStyle = "single"
    boost: float = 1.1**2
    grid_weights: tuple[float, ...] = (0.3, 0.5, 0.1, 0.1)
    background: float = 0.45
    presence: float = 0.02
    presence_power: float = 0.0
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        section = "methods.diffsegmenter"
        require_positive(self, section, "height", "width", "batch")
        step, prompt = self.timestep, self.prompt
        require(isinstance(step, int) and 0 <= step < 1000, f"{section}.timestep", step, "0 .. 999")
        require(isinstance(prompt, str) and "{}" in prompt, f"{section}.prompt", prompt, "a text with a {}")
        shown = is_number(self.presence, least=0, most=1)
        require(shown, f"{section}.presence", self.presence, "between 0 and 1")
        require(self.prompts in get_args(PromptStyle), f"{section}.prompts", self.prompts, "single or joint")
        weights = self.grid_weights
        numbers = isinstance(weights, tuple) and all(is_number(weight, least=0) for weight in weights)
        usable = numbers and len(weights) == 4 and sum(weights) > 0
        require(usable, f"{section}.grid_weights", weights, "four numbers of 0 or more, not all 0")
        power = self.presence_power
        require(is_number(power, least=0), f"{section}.presence_power", power, "0 or more")
        for name in ("boost", "background"):
            require(is_number(getattr(self, name)), f"{section}.{name}", getattr(self, name), "a number")
        require(isinstance(self.seed, int), f"{section}.seed", self.seed, "a whole number")
