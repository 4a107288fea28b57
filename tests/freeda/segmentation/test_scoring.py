from __future__ import annotations

import numpy as np
import torch

from freeda.segmentation.scoring import fuse_scores, local_scores


def test_local_and_fused_scores_follow_the_formulas() -> None:
    rng = np.random.default_rng(0)
    regions, prototypes = rng.normal(size=(7, 5)), rng.normal(size=(3, 5))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    image = rng.uniform(-1, 1, 3)
    cosine = regions @ prototypes.T / np.linalg.norm(regions, axis=1, keepdims=True)
    expected = 0.8 / (1 + np.exp(-cosine)) + 0.2 * image
    local = local_scores(torch.from_numpy(regions), torch.from_numpy(prototypes))
    np.testing.assert_allclose(fuse_scores(local, torch.from_numpy(image), 0.8), expected, rtol=1e-10)
