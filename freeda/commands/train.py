"""`freeda train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import DEVICE, limit_threads, read_lines
from freeda.commands.paths import out_folder
from freeda.methods import TRAINED

if TYPE_CHECKING:
    from torch import nn

    from freeda.methods.trained import Plan, Training
    from freeda.models.checkpoint import Checkpoint
    from freeda.presets import Preset
    from freeda.segmentation.annotations import AnnotatedImages
    from freeda.training.processes import Processes
    from freeda.training.run import TrainingRun

__all__ = ["train_command"]

_HELD_OUT = 20
_LOOKED_AT = 32
"""Images among which one must have a caption."""


@click.command("train", context_settings={"show_default": True})
@click.argument("method", type=click.Choice(tuple(TRAINED)))
@click.option(
    "--data",
    required=True,
    help="toyworld, a COCO panoptic JSON file or its folder, or a folder with images/, labels/ and "
    "classes.txt.",
)
@click.option("--out", callback=out_folder, required=True, help="Folder of the training and of its weights.")
@click.option("--preset", default="toy", help="Frozen models and settings: a preset's name or a .toml file.")
@click.option(
    "--recipe",
    help="What is learnt: labels or captions (odise), one-step or diffusion (digseg), labels or text "
    "(flowseg).  [default: the first]",
)
@click.option(
    "--seen",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Text file with one class per line: train on these only.  [default: all; for toyworld, 38 of 50, or "
    "all for flowseg with recipe labels]",
)
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="Begin with this folder's weights, not with new ones.",
)
@click.option("--steps", type=click.IntRange(1), help="Steps of the whole training.  [default: the recipe's]")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="End after so many minutes at the latest."
)
@click.option("--batch", type=click.IntRange(1), help="Images per step.  [default: the recipe's]")
@click.option(
    "--at-once",
    type=click.IntRange(1),
    help="Images per pass of the network; gradients of a step are accumulated.  [default: all of a step]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: one per core]")
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a setting, such as learning_rate=1e-4 or queries=50; may be repeated.",
)
@DEVICE
@click.option("--overwrite", is_flag=True, help="Replace another training in --out.")
def train_command(method: str, out: Path, overwrite: bool, **options: Any) -> None:
    """Train METHOD on annotated images: odise, digseg or flowseg.

    A checkpoint is written every two minutes. Run the same command again after an interruption: it resumes.
    On several GPUs: torchrun --nproc-per-node N -m freeda.cli train ...
    """
    from freeda.models.loading import choose_device
    from freeda.presets import load_preset
    from freeda.training.card import full_cost
    from freeda.training.processes import Processes

    if options["threads"]:
        limit_threads(options["threads"])
    preset, processes = load_preset(options["preset"]), Processes.of(choose_device(options["device"]))
    run = _run(method, out, preset, processes, options)
    with run.opened(processes, overwrite=overwrite):
        measure = partial(_held_out, run, preset, options["data"], str(processes.device))
        before = measure() if processes.is_main else None  # the network has its first weights still
        reached = run.fit(processes.device, lambda progress: click.echo(str(progress), err=True))
        if not processes.is_main:
            return
        figures = _figures(before, measure())
        written = run.finish(reached, figures)
    for name, figure in figures.items():
        click.echo(f"{name}: {figure}")
    click.echo(full_cost(run.training.plan, run.plan, reached))
    click.echo(f"written  {', '.join(map(str, written))}")
    click.echo(f"use      freeda segment --method {method} --weights {out} IMAGE --classes ...")


def _run(
    method: str, out: Path, preset: Preset, processes: Processes, options: Mapping[str, Any]
) -> TrainingRun:
    """What the options ask for, ready to begin."""
    from freeda.models.checkpoint import Checkpoint
    from freeda.presets.toml import parse_setting
    from freeda.training.run import TrainingRun

    recipes = import_module(TRAINED[method])
    recipe = options["recipe"] or recipes.RECIPES[0]
    settings = dict(map(parse_setting, options["assignments"]))
    if options["start"] is not None:
        settings = {**recipes.STARTED, **settings}
    data = _open_data(options["data"], options["seen"], closed=recipe in recipes.CLOSED)
    if recipe == "captions":
        data = _with_nouns(data)
    training = recipes.build(preset, data, recipe=recipe, device=processes.device, options=settings)
    start: dict[str, Any] = {}
    if options["start"] is not None:
        Checkpoint.read(options["start"], method).require_frozen(options["start"], training.frozen)
        start = {"start": _begin_with(options["start"], training.task.network)}
    plan = _plan(training, options)
    if recipe == "captions":
        _require_several(plan, processes.count)
    checkpoint = _checkpoint(method, recipe, _preset_name(options["preset"]), training, data)
    return TrainingRun.of(
        out,
        training,
        plan,
        checkpoint,
        {**data.identity, **start, "processes": processes.count},
    )


def _begin_with(folder: Path, network: nn.Module) -> str:
    """Fills a network's parameters, and returns their fingerprint; its buffers are the new training's."""
    from freeda.models.checkpoint import Checkpoint

    own = {name: values.clone() for name, values in network.named_buffers()}
    fingerprint = Checkpoint.load_weights(folder, network)
    for name, values in network.named_buffers():
        values.copy_(own[name])
    return fingerprint


def _open_data(name: str, seen: Path | None, *, closed: bool) -> AnnotatedImages:
    """closed: whether nothing but the classes of the training can be named later."""
    from freeda.errors import DatasetError
    from freeda.evaluation.datasets import open_dataset
    from freeda.segmentation.annotations import OnlyClasses
    from freeda.toyworld.split import TrainingScenes
    from freeda.toyworld.vocabulary import KINDS

    names = None if seen is None else frozenset(read_lines(seen))
    if name == "toyworld":
        if names is None and closed:
            names = frozenset(kind.name for kind in KINDS)
        return TrainingScenes.showing(names)
    if not Path(name).exists():
        raise DatasetError(
            f"no training data '{name}'; expected toyworld, a COCO panoptic JSON file, or a folder (the data "
            f"sets of `freeda evaluate` are for measuring)"
        )
    data = open_dataset(name)
    return data if names is None else OnlyClasses.of(data, names)


def _with_nouns(data: AnnotatedImages) -> AnnotatedImages:
    """Captions are tagged as `freeda build-index` tags them."""
    from freeda.errors import DatasetError
    from freeda.segmentation.annotations import WithNouns
    from index_build.captions.nouns import NounFinder
    from index_build.captions.taggers import open_tagger

    looked_at = range(0, len(data), -(-len(data) // _LOOKED_AT))
    if not any(data.annotated(number).caption for number in looked_at):
        raise DatasetError(
            f"recipe captions needs captions, and none of {len(looked_at)} images looked at has one; they "
            f"lie beside a COCO panoptic JSON file as captions_NAME.json"
        )
    find = NounFinder(open_tagger("pattern"))
    return WithNouns.of(data, lambda text: [span.noun for span in find(text)])


def _preset_name(given: str) -> str:
    """A file's whole path, for weights are loaded from other folders than they were trained in."""
    return str(Path(given).resolve()) if given.endswith(".toml") else given


def _require_several(plan: Plan, processes: int) -> None:
    """Captions are learnt by comparing the images that pass the networks together."""
    from freeda.errors import ConfigError

    together = plan.batch if plan.at_once is None else min(plan.batch, plan.at_once * processes)
    if together < 2:
        raise ConfigError(
            f"recipe captions compares images of a pass, and there is {together} in each; choose a --batch, "
            f"and an --at-once, of at least 2"
        )


def _plan(training: Training, options: Mapping[str, Any]) -> Plan:
    given = {
        name: options[name] for name in ("steps", "minutes", "batch", "at_once") if options[name] is not None
    }
    return replace(training.plan, **given)


def _held_out(run: TrainingRun, preset: Preset, data: str, device: str) -> float | None:
    """The network's mIoU on scenes of the toy world that nothing was trained on; None for other data, of
    which all is learnt, and where not all kinds can be named.
    """
    if data != "toyworld":
        return None
    from tempfile import TemporaryDirectory

    from freeda.errors import ClassNamesError
    from freeda.evaluation.metrics import ConfusionMatrix
    from freeda.evaluation.toy import ToyDataset
    from freeda.methods import load

    click.echo(f"measuring on {_HELD_OUT} held-out scenes", err=True)
    scenes = ToyDataset(count=_HELD_OUT, split="validation")
    matrix = ConfusionMatrix(len(scenes.classes))
    with TemporaryDirectory() as folder:
        run.checkpoint.write(Path(folder), run.training.task.network)
        segmenter = load(method=run.checkpoint.method, weights=folder, preset=preset, device=device)
        try:
            segmenter.set_classes(scenes.classes)
        except ClassNamesError:
            click.echo("they are left out: not all of their kinds can be named", err=True)
            return None
        results = segmenter.stream(scenes.image(number) for number in range(_HELD_OUT))
        for number, result in enumerate(results):
            matrix.add(scenes.truth(number), result.labels)
    return 100 * matrix.mean_iou()


def _figures(before: float | None, after: float | None) -> dict[str, str]:
    if before is None or after is None:
        return {}
    return {f"mIoU of {_HELD_OUT} held-out scenes, all 50 kinds": f"{after:.1f} (before: {before:.1f})"}


def _checkpoint(
    method: str, recipe: str, preset: str, training: Training, data: AnnotatedImages
) -> Checkpoint:
    from freeda.models.checkpoint import Checkpoint

    return Checkpoint(
        method=method,
        recipe=recipe,
        preset=preset,
        settings=training.settings,
        classes=tuple(item.names for item in data.classes),
        stuff=tuple(item.name for n, item in enumerate(data.classes) if n not in data.things),
        frozen=training.frozen,
    )
