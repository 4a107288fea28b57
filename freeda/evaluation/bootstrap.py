"""Whether a difference between two methods on the same images is more than chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "paired_bootstrap"]


@dataclass(frozen=True)
class Interval:
    """A difference, and the 95 % of resampled differences around it."""

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether it excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    figure: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """What `first` is better by: the figure of its images' summed counts less that of `second`'s.

    first, second: (N, ...) counts per image, of the same images in the same order.
    figure: of (R, ...) summed counts, an (R,) array, NaN where it has no meaning.
    Images are drawn with replacement, the same for both.
    """
    if first.shape != second.shape:
        raise ValueError(f"counts of {first.shape} and {second.shape}; expected the same images and classes")
    rng = np.random.default_rng(seed)
    flat = [counts.reshape(len(counts), -1).astype(np.float64) for counts in (first, second)]
    found: list[np.ndarray] = []
    for size in _chunks(resamples):
        weights = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), size).astype(np.float64)
        sums = [(weights @ counts).reshape(size, *first.shape[1:]) for counts in flat]
        found.append(figure(sums[0]) - figure(sums[1]))
    whole = [figure(counts.sum(0).reshape(1, *first.shape[1:]))[0] for counts in flat]
    low, high = np.nanpercentile(np.concatenate(found), (2.5, 97.5))
    return Interval(float(whole[0] - whole[1]), float(low), float(high))


def _chunks(total: int, most: int = 500) -> list[int]:
    return [min(most, total - first) for first in range(0, total, most)]
