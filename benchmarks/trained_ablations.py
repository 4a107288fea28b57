"""What each part of the trained methods is worth on the toy world: variants trained alike, compared by paired
bootstrap.

Run from the checkout's root: `python benchmarks/trained_ablations.py METHOD [--steps N] [--write]`. It trains
several networks per seed, which takes hours; interrupted, it resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from results import publish
from scenes import CPU, DATA, STUFF, Measured, measured, miou

from freeda.evaluation.bootstrap import Interval, paired_bootstrap
from freeda.methods import TRAINED, load
from freeda.methods.odise.loading import load_frozen, new_network
from freeda.methods.odise.method import OdiseMethod
from freeda.methods.odise.network import FrozenModels
from freeda.methods.odise.settings import NetworkSettings, OdiseSettings
from freeda.methods.odise.task import OdiseTask
from freeda.methods.segmenter import MethodSegmenter
from freeda.methods.trained import Plan
from freeda.methods.trained_weights import split_settings
from freeda.models.checkpoint import Checkpoint
from freeda.presets import load_preset
from freeda.presets.toml import changed
from freeda.segmentation.annotations import AnnotatedImages
from freeda.toyworld.split import TrainingScenes
from freeda.toyworld.vocabulary import KINDS
from freeda.training.loop import fit

_HEADER = """## Ablations of {title}

`python benchmarks/trained_ablations.py {method} --steps {steps} --batch {batch} --seeds {seeds} --scenes
{scenes} --write`: percentage points, with 95 % intervals from 10,000 resamples of the scenes. A sign counts
where the interval of the seeds' mean excludes 0 and no seed reverses it.
"""
_TITLES = {"odise": "ODISE", "digseg": "DiGSeg", "flowseg": "FlowSeg"}
_FULL = "the full method"
_SHARE = 0.3
"""Of a full training's steps."""
_TOKENS_SHARE = 0.9
"""Of FlowSeg's steps: the part in which it learns to classify tokens. All variants and seeds share it, as
they would share a pretrained network."""


@dataclass(frozen=True)
class Variant:
    """A change to a method.

    training: of its settings. recipe: another than its first. steps: share of the steps.
    calls: of what may change with every call. by_clip: ODISE on CLIP's features.
    rival: the variant that it is compared with. expected: how it should compare, "worse" or "better"; empty
    where nothing is claimed.
    """

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[str, Any] = field(default_factory=dict)
    rival: str = _FULL
    expected: str = "worse"
    recipe: str = ""
    by_clip: bool = False
    steps: float = 1.0

    @property
    def training_name(self) -> str:
        """The same for variants that share their weights."""
        changes = [f"{key}={value}" for key, value in self.training.items()]
        changes += [self.recipe] if self.recipe else []
        changes += ["by-clip"] if self.by_clip else []
        changes += [f"{self.steps:g}-of-steps"] if self.steps < 1 else []
        return ",".join(changes) or "full"


_EMPTY = "without the captioner (empty text)"
_SHORT = "a quarter of the steps"
_PLAIN = {"objective": "plain"}
TOKENS = Variant("tokens classified alone", {"pretrained": 1.0})
_WARMUP = 20
"""Steps, where FlowSeg goes on from classified tokens: a full training's would be half of these few."""
VARIANTS: Mapping[str, tuple[Variant, ...]] = {
    "odise": (
        Variant(_EMPTY, {"captioner": False}),
        Variant("latents noised to t = 500", {"timestep": 500}),
        Variant(
            "CLIP's features in place of the diffusion model's",
            {"captioner": False},
            rival=_EMPTY,
            by_clip=True,
        ),
    ),
    "digseg": (
        Variant("a UNet of random weights", {"pretrained": False}),
        Variant("without the path of CLIP's text", {"text_path": False}),
        Variant("without classes that images do not show", {"absent": 0.0}),
        Variant("by diffusion, 1 step", recipe="diffusion", calls={"steps": 1}, expected=""),
        Variant("by diffusion, 10 steps", recipe="diffusion", calls={"steps": 10}, expected=""),
    ),
    "flowseg": (
        Variant("plain flow matching", _PLAIN),
        Variant(_SHORT, steps=0.25),
        Variant(f"plain flow matching, {_SHORT}", _PLAIN, rival=_SHORT, steps=0.25),
        Variant("cross-entropy in one step", {"objective": "cross-entropy"}, {"steps": 1}, expected=""),
        Variant("random centroids", {"centroids": "random"}),
        Variant("golden-ratio centroids", {"centroids": "golden"}, expected=""),
        Variant("epsilon 0.01", {"epsilon": 0.01}, expected=""),
        Variant("temperature 0.5", {"temperature": 0.5}, expected=""),
        *(Variant(f"{steps} steps of Euler", calls={"steps": steps}, expected="") for steps in (5, 10, 100)),
    ),
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


def scenes_of(method: str) -> AnnotatedImages:
    """Those that the method's first recipe learns from."""
    recipes = import_module(TRAINED[method])
    if recipes.RECIPES[0] in recipes.CLOSED:
        return TrainingScenes.showing(frozenset(kind.name for kind in KINDS))
    return TrainingScenes()


def trained(method: str, variant: Variant, work: Path, plan: Plan) -> Path:
    """Trains a variant, or goes on with it; returns the folder of its weights."""
    if method == "flowseg" and variant != TOKENS:
        return _trained_on_tokens(variant, work, plan)
    return _trained(method, variant, work, plan)


def _trained_on_tokens(variant: Variant, work: Path, plan: Plan) -> Path:
    """A variant of FlowSeg: it begins with the weights that have learnt to classify tokens."""
    first = round(_TOKENS_SHARE * plan.steps)
    tokens = _trained("flowseg", TOKENS, work, replace(plan, steps=first, seed=0))
    rest = replace(plan, steps=plan.steps - first, warmup=_WARMUP)
    variant = replace(variant, training={"pretrained": 0.0, **variant.training})
    return _trained("flowseg", variant, work, rest, tokens)


def _trained(method: str, variant: Variant, work: Path, plan: Plan, start: Path | None = None) -> Path:
    """start: folder of the weights to begin with."""
    recipes, data = import_module(TRAINED[method]), scenes_of(method)
    recipe = variant.recipe or recipes.RECIPES[0]
    plan = replace(plan, steps=max(1, round(plan.steps * variant.steps)))
    options = {**variant.training, "seed": plan.seed}
    training = recipes.build(load_preset("toy"), data, recipe=recipe, device=CPU, options=options)
    began = [] if start is None else [_begin_with(start, training.task.network)]
    depends = (asdict(plan), training.settings, training.conditions, training.frozen, *began)
    folder = _folder(work, variant, plan, depends)
    fit(training.task, len(data), plan, folder, CPU, on_progress=lambda done: click.echo(done, err=True))
    Checkpoint(
        method=method,
        recipe=recipe,
        preset="toy",
        settings=training.settings,
        classes=tuple(item.names for item in data.classes),
        stuff=STUFF,
        frozen=training.frozen,
    ).write(folder, training.task.network)
    return folder


def _begin_with(start: Path, network: Any) -> str:
    """Only weights are taken over, not where classes lie."""
    placed = network.centroids.clone()
    fingerprint = Checkpoint.load_weights(start, network)
    network.centroids.copy_(placed)
    return fingerprint


def _folder(work: Path, variant: Variant, plan: Plan, depends: object) -> Path:
    """A training of other settings, or on other models, never goes on with this one's state."""
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:8]
    folder = work / f"{variant.training_name}-{plan.seed}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured_variant(method: str, variant: Variant, work: Path, plan: Plan, scenes: int) -> Measured:
    if variant.by_clip:
        return measured(_by_clip(variant, work, plan), scenes)
    weights = trained(method, variant, work, plan)
    options = {**({"stuff": STUFF} if method == "odise" else {}), **variant.calls}
    return measured(load(method=method, weights=weights, **options), scenes)


def _by_clip(variant: Variant, work: Path, plan: Plan) -> MethodSegmenter[Any, Any, Any]:
    """ODISE on CLIP's features, which no preset describes."""
    preset, data = load_preset("toy"), TrainingScenes()
    own, others = split_settings(preset, "odise", NetworkSettings)
    chosen = changed(NetworkSettings(), {**own, **variant.training}, "ablation")
    asked = changed(OdiseSettings(), {**others, "stuff": STUFF}, "ablation")
    frozen = load_frozen(preset, chosen, CPU, torch.float32)
    frozen = FrozenModels(ClipTaps(frozen), frozen.clip, "")  # type: ignore[arg-type]
    network, templates = new_network(frozen, chosen, plan.seed), preset.segmentation.templates
    folder = _folder(work, variant, plan, (asdict(plan), asdict(chosen), frozen.clip.fingerprint()))
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
    return MethodSegmenter(OdiseMethod(frozen, network, seen, templates, asked))


def ablations(method: str, work: Path, plan: Plan, seeds: int, scenes: int) -> Iterator[str]:
    yield (
        f"{plan.steps:,} steps of {plan.batch} scenes, {seeds} seeds; {scenes} held-out scenes, all "
        f"{len(DATA.classes)} kinds."
    )
    if method == "flowseg":
        yield f"All variants and seeds share the first {_TOKENS_SHARE:.0%} of steps: they classify tokens."
    yield ""
    yield "| | seed | mIoU | PQ | what it gains, mIoU | over |"
    yield "|---|---|---|---|---|---|"
    found: dict[str, list[Measured]] = {}
    for seed in range(seeds):
        for variant in (Variant(_FULL), *VARIANTS[method]):
            one = measured_variant(method, variant, work / method, replace(plan, seed=seed), scenes)
            found.setdefault(variant.name, []).append(one)
            compared = " | "
            if variant.name != _FULL:
                compared = f"{_gain([one], [found[variant.rival][-1]])} | {variant.rival}"
            yield f"| {variant.name} | {seed} | {_figures(one)} | {compared} |"
    yield ""
    yield "| | expected | mean gain of the seeds | verdict |"
    yield "|---|---|---|---|"
    for variant in VARIANTS[method]:
        yield _verdict(variant, found[variant.name], found[variant.rival])


def _verdict(variant: Variant, own: list[Measured], rival: list[Measured]) -> str:
    mean = _gain(own, rival)
    signs = {np.sign(_gain([a], [b]).difference) for a, b in zip(own, rival, strict=True)}
    clear = mean.is_clear and len(signs) == 1
    sign = "better" if mean.difference > 0 else "worse"
    verdict = sign if clear else "no clear sign"
    if variant.expected:
        verdict += ", as expected" if clear and sign == variant.expected else ": the expected sign FAILED"
    return f"| {variant.name} | {variant.expected or 'nothing'} | {mean} | {verdict} |"


def _gain(own: list[Measured], rival: list[Measured]) -> Interval:
    """What the mean of `own` has more than that of `rival`; scenes are drawn alike for all seeds."""

    def figure(sums: np.ndarray) -> np.ndarray:
        return 100 * np.mean([miou(sums[:, seed]) for seed in range(sums.shape[1])], axis=0)

    first, second = (np.stack([one.counts for one in some], 1) for some in (own, rival))
    return paired_bootstrap(first, second, figure)


def _figures(found: Measured) -> str:
    return f"{found.miou():.1f} | {100 * found.quality.mean()[0]:.1f}"


@click.command(context_settings={"show_default": True})
@click.argument("method", type=click.Choice(sorted(VARIANTS)))
@click.option("--scenes", type=int, default=300)
@click.option("--steps", type=int, help="Of each variant's training.  [default: 30 % of a full one]")
@click.option("--batch", type=int, help="Scenes per step.  [default: a full training's]")
@click.option("--seeds", type=int, default=3)
@click.option("--work", type=Path, default=Path("ablations"), help="Where trainings are kept.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(
    method: str, scenes: int, steps: int | None, batch: int | None, seeds: int, work: Path, write: bool
) -> None:
    """Prints the table of METHOD."""
    recipes = import_module(TRAINED[method])
    data = scenes_of(method)
    full: Plan = recipes.build(
        load_preset("toy"), data, recipe=recipes.RECIPES[0], device=CPU, options={}
    ).plan
    plan = replace(full, steps=steps or round(_SHARE * full.steps), batch=batch or full.batch)
    head = _HEADER.format(
        title=_TITLES[method],
        method=method,
        steps=plan.steps,
        batch=plan.batch,
        seeds=seeds,
        scenes=scenes,
    )
    publish(f"ablations-{method}", [head], ablations(method, work, plan, seeds, scenes), write=write)


if __name__ == "__main__":
    main()
