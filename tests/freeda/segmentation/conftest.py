from __future__ import annotations

import numpy as np
import pytest

from freeda.segmentation.result import Segmentation


@pytest.fixture
def patchwork() -> Segmentation:
    """Patches of three of four classes, and a corner where nothing was decided."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (6, 9)), np.ones((5, 4), int)).astype(np.int32)
    labels[:3, :3] = 255
    return Segmentation(
        image=np.zeros((*labels.shape, 3), np.uint8),
        labels=labels,
        scores=rng.random(labels.shape).astype(np.float32),
        classes=("cat", "dog", "grass", "absent"),
    )
