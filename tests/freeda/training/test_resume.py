"""Every trained method resumes exactly: interrupted and called again, it gives the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from freeda.methods.digseg.training import build as build_digseg
from freeda.methods.flowseg.training import build as build_flowseg
from freeda.methods.trained import Plan, Training
from freeda.presets import load_preset
from freeda.presets.settings import Preset
from freeda.toyworld.split import TrainingScenes
from freeda.training.loop import fit
from tests.freeda.methods.digseg.conftest import digseg_preset  # noqa: F401
from tests.freeda.methods.flowseg.conftest import TINY

CPU = torch.device("cpu")
PLAN = Plan(steps=6, batch=2, learning_rate=1e-3)


def training(method: str, preset: Preset) -> Training:
    if method == "digseg":
        options: dict[str, Any] = {"queries": 2}
        return build_digseg(preset, TrainingScenes(), recipe="diffusion", device=CPU, options=options)
    backbone = load_preset("toy")
    options = {name: value for name, value in TINY.items() if name != "align_width"} | {"pretrained": 0.5}
    return build_flowseg(backbone, TrainingScenes(), recipe="labels", device=CPU, options=options)


@pytest.mark.parametrize("method", ["digseg", "flowseg"])
def test_an_interrupted_training_gives_the_same_weights(
    method: str,
    digseg_preset: Preset,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("freeda.training.loop._CHECKPOINT_SECONDS", 0.0)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = training(method, digseg_preset)
    fit(whole.task, 50, PLAN, tmp_path / "whole", CPU)
    parts = training(method, digseg_preset)
    learn, seen = parts.task.loss, []

    def interrupted(numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        seen.append(progress)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return learn(numbers, rng, progress)

    parts.task.loss = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fit(parts.task, 50, PLAN, tmp_path / "parts", CPU)
    again = training(method, digseg_preset)
    fit(again.task, 50, PLAN, tmp_path / "parts", CPU)
    states = [load_file(tmp_path / name / f"{method}.state.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    differing = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    assert differing == []
