"""The numbers of DiffSegmenter."""

from __future__ import annotations

from dataclasses import dataclass

from freeda.presets.settings import is_number, require, require_positive

__all__ = ["DiffSegmenterSettings"]


@dataclass(frozen=True, kw_only=True)
class DiffSegmenterSettings:
    """Defaults are the released code's; `[methods.diffsegmenter]` of a preset changes them.

    height, width: pixels to which the image is squashed.
    timestep: to which it is noised, 0 .. 999.
    prompt: text with a {} for the class name.
    boost: factor on the embeddings of the class's tokens.
    background: constant score of the background.
    presence: least softmax probability, by CLIP over all classes, of a class that is looked for. (The
        released code reads lists of present classes from files; this filter is ours.)
    batch: classes per UNet pass.
    seed: of the noise.
    """

    height: int
    width: int
    timestep: int = 100
    prompt: str = "a photograph of a {}"
    boost: float = 1.1**2
    background: float = 0.45
    presence: float = 0.02
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
        for name in ("boost", "background"):
            require(is_number(getattr(self, name)), f"{section}.{name}", getattr(self, name), "a number")
        require(isinstance(self.seed, int), f"{section}.seed", self.seed, "a whole number")
