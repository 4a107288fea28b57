"""`python -m freeda.toyworld.train`: draws the scenes, trains the models, writes their folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from freeda.models.backbone import load_backbone
from freeda.models.diffusion import load_pipeline
from freeda.models.loading import choose_device
from freeda.toyworld.train import autoencoder, clip, clip_images, decoder, dense, diffusion
from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.train.tokenizer import train_tokenizer
from freeda.training.loop import Plan, Task, fit

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Run:
    """One call of the command: scenes, where to work and write, and how long."""

    scenes: SceneCache
    work: Path
    out: Path
    device: torch.device
    scale: float
    learning_rate: float
    start: Path | None

    def fit(self, task: Task, plan: Plan) -> None:
        scaled = replace(
            plan,
            minutes=plan.minutes * self.scale,
            learning_rate=self.learning_rate or plan.learning_rate,
        )
        fit(task, len(self.scenes), scaled, self.work, self.device, on_progress=click.echo)


def train_dense(run: Run) -> None:
    start = load_backbone([str(run.start)], run.device) if run.start else None
    task = dense.DenseTask(run.scenes, run.device, start)
    run.fit(task, dense.PLAN)
    dense.save(task, run.out / "dense")


def train_diffusion(run: Run) -> None:
    """Needs the dense backbone: the UNet's features are drawn towards its own."""
    start = load_pipeline([str(run.start)], torch.device("cpu")) if run.start else None
    parts = _trained_parts(run) if start is None else start
    vae, tokenizer = autoencoder.copy_of(parts.vae).to(run.device), parts.tokenizer
    latents = autoencoder.encode_scenes(
        vae, run.scenes, run.work / f"latents-{len(run.scenes)}.safetensors", run.device
    )
    backbone = load_backbone([str(run.out / "dense")], run.device)
    features = dense.encode_scenes(backbone, run.scenes, run.work)
    task = diffusion.DiffusionTask(latents, features, run.scenes, tokenizer, run.device, start)
    run.fit(task, diffusion.PLAN)
    pipeline = diffusion.assemble_pipeline(vae, task, tokenizer)
    pipeline.to(torch.float16).save_pretrained(run.out / "diffusion")


def train_decoder(run: Run) -> None:
    """Needs a finished pipeline, that of `--start` or the one trained before, and the dense backbone."""
    pipeline = load_pipeline([str(run.start or run.out / "diffusion")], torch.device("cpu"))
    vae = autoencoder.copy_of(pipeline.vae)
    backbone = load_backbone([str(run.out / "dense")], run.device)
    deviation = 1 / float(pipeline.vae.config.scaling_factor)
    run.fit(decoder.DecoderTask(vae, backbone, run.scenes, run.device, deviation), decoder.PLAN)
    pipeline.vae.load_state_dict(vae.state_dict())
    pipeline.to(torch.float16).save_pretrained(run.out / "diffusion")


def train_clip(run: Run) -> None:
    tokenizer = train_tokenizer(corpus(run.scenes), run.work / "tokenizer")
    task = clip.ClipTask(run.scenes, tokenizer, run.work, run.device)
    run.fit(task, clip.PLAN)
    clip.save(task.network, tokenizer, run.out / "clip")


def train_clip_images(run: Run) -> None:
    """Needs a finished CLIP, that of `--start` or the one trained before."""
    start = run.start or run.out / "clip"
    task = clip_images.ImageTowerTask(run.scenes, start, run.device)
    run.fit(task, clip_images.PLAN)
    clip.save(task.model, clip.tokenizer_of(start), run.out / "clip")


@dataclass(frozen=True)
class _Parts:
    """What the denoiser stands on."""

    vae: Any
    tokenizer: Any


def _trained_parts(run: Run) -> _Parts:
    tokenizer = train_tokenizer(corpus(run.scenes), run.work / "tokenizer")
    images = autoencoder.AutoencoderTask(run.scenes, run.device)
    run.fit(images, autoencoder.PLAN)
    return _Parts(images.network, tokenizer)


def corpus(scenes: SceneCache) -> list[str]:
    """Every sentence of the training scenes, what the tokenizer learns from."""
    return [text for texts in (*scenes.captions, *scenes.mentions) for text in texts]


STAGES: dict[str, Callable[[Run], None]] = {
    "dense": train_dense,
    "diffusion": train_diffusion,
    "decoder": train_decoder,
    "clip": train_clip,
    "clip-images": train_clip_images,
}
_PLANS = {
    "dense": (dense.PLAN,),
    "diffusion": (autoencoder.PLAN, diffusion.PLAN),
    "decoder": (decoder.PLAN,),
    "clip": (clip.PLAN,),
    "clip-images": (clip_images.PLAN,),
}


_STARTED = ("dense", "diffusion", "decoder", "clip-images")
"""Stages that can begin with a finished model."""
_FOLDER = click.Path(file_okay=False, resolve_path=True, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.argument("stages", nargs=-1, type=click.Choice(tuple(STAGES)))
@click.option("--work", type=Path, default=Path("toy-training"), help="Scenes and checkpoints.")
@click.option("--out", type=_FOLDER, default=WEIGHTS, help="Finished models.")
@click.option("--start", type=_FOLDER, help="Finished model of the stage, to begin with its weights.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice.")
@click.option("--minutes", type=float, default=0.0, help="Budget of all stages; 0 keeps the recipe's.")
@click.option("--learning-rate", type=float, default=0.0, help="0 keeps the recipe's.")
@click.option("--scenes", type=int, default=24_000, help="How many training scenes to draw.")
def main(stages: tuple[str, ...], minutes: float, scenes: int, threads: int, **options: Any) -> None:
    """Trains the toy world's models, or those of STAGES; run again, it resumes."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    chosen = [name for name in STAGES if name in (stages or STAGES)]
    start, work = options["start"], options["work"]
    if start and (len(chosen) != 1 or chosen[0] not in _STARTED):
        raise click.UsageError(
            f"--start is one stage's model, found {', '.join(chosen)}; name one of {', '.join(_STARTED)}"
        )
    recipe = sum(plan.minutes for name in chosen for plan in _PLANS[name][-1 if start else 0 :])
    run = Run(
        scenes=SceneCache.open(work, scenes),
        work=work,
        out=options["out"],
        device=choose_device(options["device"]),
        scale=minutes / recipe if minutes else 1.0,
        learning_rate=options["learning_rate"],
        start=start,
    )
    for name in chosen:
        STAGES[name](run)


if __name__ == "__main__":
    main()
