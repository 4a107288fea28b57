"""From score maps to the result: the best class of every pixel, against a background where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from freeda.segmentation.evidence import Evidence
from freeda.segmentation.scoring import label_map
from freeda.class_names import BACKGROUND
from freeda.segmentation.decision import Foreground
from freeda.segmentation.result import Segmentation, ignore_index_for

__all__ = ["decide"]


def decide(
    pixels: np.ndarray,
    scores: torch.Tensor,
    names: Sequence[str],
    *,
    background: float | None = None,
    paths: Mapping[str, int],
    explainer: Callable[[int, int], Evidence] | None = None,
) -> Segmentation:
    """The result for an (H, W, 3) image from (C + B, h, w) scores.

    The first C = len(names) channels are classes, the B after them background concepts. background:
    the constant that a class must exceed, as it must exceed every concept; None for no background.
    """
    size = (pixels.shape[0], pixels.shape[1])
    classes = tuple(names) if background is None else (BACKGROUND, *names)
    ignore_index = ignore_index_for(len(classes))
    labels, best = label_map(scores[: len(names)], size, ignore_index)
    if background is None:
        return Segmentation(pixels, labels, best, classes, ignore_index, paths, explainer)
    rivals = label_map(scores[len(names) :], size, ignore_index)[1] if len(scores) > len(names) else None
    counted = np.where(labels == ignore_index, ignore_index, labels + 1).astype(np.int32)
    foreground = Foreground(counted, best, rivals)
    labels, best = foreground.decide(background, ignore_index)
    return Segmentation(pixels, labels, best, classes, ignore_index, paths, explainer, foreground)
