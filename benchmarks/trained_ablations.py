"""What each part of ODISE is worth on the toy world: variants trained alike, compared by paired bootstrap.

Run from the checkout's root: `python benchmarks/trained_ablations.py [--steps 6000] [--seeds 3] [--write]`.
It trains four networks per seed, which takes hours; interrupted, it resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from results import publish
from trained import CPU, DATA, STUFF, Measured, measured, miou

from freeda.evaluation.bootstrap import paired_bootstrap
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.method import OdiseMethod
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import NetworkSettings, OdiseSettings, parts
from freeda.methods.odise.task import OdiseTask
from freeda.methods.segmenter import MethodSegmenter
from freeda.methods.trained import Plan
from freeda.models.checkpoint import Checkpoint
from freeda.presets import load_preset
from freeda.presets.toml import changed
from freeda.toyworld.split import TrainingScenes
from freeda.training.loop import fit

_HEADER = """## Ablations of ODISE

`python benchmarks/trained_ablations.py --write`: percentage points, with 95 % intervals from 10,000 resamples
of the scenes. A sign counts where no seed's interval includes 0 and no seed reverses it.
"""
_FULL = "the full method"
VARIANTS: dict[str, dict[str, Any]] = {
    "without the captioner (empty text)": {"captioner": False},
    "latents noised to t = 500": {"timestep": 500},
    "CLIP's features in place of the diffusion model's": {"captioner": False},
}


class ClipTaps:
    """CLIP's own features in place of the diffusion model's: the inputs of its stem's pooling and of its
    residual stages, at strides 2, 4, 4, 8 and 16.
    """

    text_shape, time_width = (1, 1), 1

    def __init__(self, frozen: Any) -> None:
        self.pipeline = frozen.diffusion.pipeline  # for its device only
        self._clip = frozen.clip
        tower = frozen.clip.network.visual
        layers = (tower.layer1, tower.layer2, tower.layer3, tower.layer4)
        self._stages = (tower.avgpool, *layers)
        self.channels = (tower.conv3.out_channels, *(layer[0].conv1.in_channels for layer in layers))

    def empty_text(self) -> torch.Tensor:
        return torch.zeros(1, 1, 1)

    @torch.no_grad()
    def features(self, images: torch.Tensor, text: torch.Tensor, time: Any = None) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        hooks = [
            stage.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].clone()))
            for stage in self._stages
        ]
        self._clip.embed_images(images)
        for hook in hooks:
            hook.remove()
        return [tap.clone() for tap in found]


def variant(folder: Path, plan: Plan, scenes: int, *, by_clip: bool = False, **settings: Any) -> Measured:
    """Trains a variant, or goes on with it, and measures it."""
    preset, data = load_preset("toy"), TrainingScenes()
    own, others = parts(preset.methods["odise"])
    chosen = changed(NetworkSettings(), {**own, **settings}, "ablation")
    asked = changed(OdiseSettings(), {**others, "stuff": STUFF}, "ablation")
    frozen = load_frozen(preset, chosen, CPU, torch.float32)
    if by_clip:
        frozen = FrozenModels(ClipTaps(frozen), frozen.clip, "")  # type: ignore[arg-type]
    network, templates = new_network(frozen, chosen, plan.seed), preset.segmentation.templates
    folder.mkdir(parents=True, exist_ok=True)
    task = OdiseTask(frozen, network, chosen, data, templates=templates)
    fit(task, len(data), plan, folder, CPU, on_progress=lambda progress: click.echo(progress, err=True))
    seen = Checkpoint(
        method="odise",
        recipe="labels",
        preset="toy",
        settings={},
        classes=tuple(item.names for item in data.classes),
        stuff=STUFF,
        frozen={},
    )
    network.requires_grad_(False)
    return measured(MethodSegmenter(OdiseMethod(frozen, network, seen, templates, asked)), scenes)


def ablations(work: Path, plan: Plan, seeds: int, scenes: int) -> Iterator[str]:
    yield (
        f"{plan.steps:,} steps of {plan.batch} scenes, {seeds} seeds; {scenes} held-out scenes, all "
        f"{len(DATA.classes)} kinds."
    )
    yield ""
    yield "| | seed | mIoU | PQ | what it loses, mIoU | clear |"
    yield "|---|---|---|---|---|---|"
    for seed in range(seeds):
        seeded = replace(plan, seed=seed)
        full = variant(work / f"full-{seed}", seeded, scenes)
        yield f"| {_FULL} | {seed} | {_figures(full)} | | |"
        empty: Measured | None = None
        for number, (name, settings) in enumerate(VARIANTS.items()):
            by_clip = name.startswith("CLIP")
            other = variant(work / f"{number}-{seed}", seeded, scenes, by_clip=by_clip, **settings)
            rival = empty if by_clip and empty else full
            gain = paired_bootstrap(rival.counts, other.counts, lambda sums: 100 * miou(sums))
            empty = empty or other  # the first variant has no captioner, as CLIP's features have none
            clear = "yes" if gain.is_clear else "no"
            yield f"| {name} | {seed} | {_figures(other)} | {gain} | {clear} |"


def _figures(found: Measured) -> str:
    return f"{found.miou():.1f} | {100 * found.quality.mean()[0]:.1f}"


@click.command(context_settings={"show_default": True})
@click.option("--scenes", type=int, default=300)
@click.option("--steps", type=int, default=6_000, help="Of each variant's training.")
@click.option("--batch", type=int, default=8)
@click.option("--seeds", type=int, default=3)
@click.option("--work", type=Path, default=Path("ablations"), help="Where trainings are kept.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(scenes: int, steps: int, batch: int, seeds: int, work: Path, write: bool) -> None:
    """Prints the table."""
    plan = Plan(steps=steps, batch=batch, learning_rate=4e-4, weight_decay=0.05)
    publish("ablations", [_HEADER], ablations(work, plan, seeds, scenes), write=write)


if __name__ == "__main__":
    main()
