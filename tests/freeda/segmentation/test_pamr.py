from __future__ import annotations

import numpy as np
import torch

from freeda.segmentation.pamr import pamr


def oracle(scores: np.ndarray, image: np.ndarray, iterations: int) -> np.ndarray:
    """PAMR pixel by pixel, in float64."""
    height, width = image.shape[1:]
    around = [
        (dy * dilation, dx * dilation)
        for dilation in (1, 2, 4, 8, 12, 24)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]

    def at(values: np.ndarray, y: int, x: int) -> np.ndarray:
        return values[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    for _ in range(iterations):
        refined = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                here = image[:, y, x]
                spread = np.stack([at(image, y + dy, x + dx) for dy, dx in around]).std(0, ddof=1)
                others = [(dy, dx) for dy, dx in around if (dy, dx) != (0, 0)]
                logits = [
                    -(np.abs(at(image, y + dy, x + dx) - here) / (1e-8 + 0.1 * spread)).mean()
                    for dy, dx in others
                ]
                weights = np.exp(logits) / np.exp(logits).sum()
                refined[:, y, x] = sum(
                    w * at(scores, y + dy, x + dx) for w, (dy, dx) in zip(weights, others, strict=True)
                )
        scores = refined
    return scores


def test_every_pixel_takes_its_lookalikes_scores() -> None:
    rng = np.random.default_rng(0)
    image, scores = rng.random((3, 11, 14)), rng.random((2, 11, 14))
    found = pamr(torch.from_numpy(scores), torch.from_numpy(image), 2)
    np.testing.assert_allclose(found, oracle(scores, image, 2), rtol=1e-9)


def test_labels_move_to_the_edge_of_the_picture() -> None:
    image = torch.zeros(3, 32, 32)
    image[:, :, 16:] = 1
    scores = torch.zeros(2, 32, 32)
    scores[0, :, :13], scores[1, :, 13:] = 1, 1
    labels = pamr(scores, image + 0.01 * torch.rand(3, 32, 32), 10).argmax(0)
    assert (labels[:, 16:] == 1).all()
    assert (labels[:, 13:16] == 0).float().mean() > 0.9
