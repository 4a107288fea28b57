"""`python -m freeda.toyworld.train`: draws the scenes, trains the models, writes their folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from freeda.loading import choose_device
from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.train.loop import Plan

STAGES = ("diffusion", "dense", "clip")


@click.command(context_settings={"show_default": True})
@click.option("--work", type=Path, default=Path("toy-training"), help="Scenes and checkpoints.")
@click.option("--out", type=Path, default=Path(__file__).parents[1] / "weights", help="Finished models.")
@click.option("--stage", type=click.Choice(STAGES), multiple=True, default=STAGES)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice.")
@click.option("--minutes", type=float, default=0.0, help="Budget for all stages; 0 keeps the recipe's.")
@click.option("--scenes", type=int, default=24_000, help="How many training scenes to draw.")
def main(
    work: Path, out: Path, stage: tuple[str, ...], device: str, threads: int, minutes: float, scenes: int
) -> None:
    """Trains the toy world's models from scratch; run it again and it goes on where it stopped."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    cache = SceneCache.open(work, scenes)
    scale = minutes / _recipe_minutes() if minutes else 1.0
    for name in stage:
        _TRAINERS[name](cache, work, out, choose_device(device), scale)


def _scaled(plan: Plan, scale: float) -> Plan:
    return replace(plan, minutes=plan.minutes * scale)


def _recipe_minutes() -> float:
    from freeda.toyworld.train import autoencoder, clip, dense, diffusion

    return sum(module.PLAN.minutes for module in (autoencoder, clip, dense, diffusion))


def _train_diffusion(cache: SceneCache, work: Path, out: Path, device: torch.device, scale: float) -> None:
    from freeda.toyworld.train import autoencoder, diffusion
    from freeda.toyworld.train.loop import fit
    from freeda.toyworld.train.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(corpus(cache), work / "tokenizer")
    images = autoencoder.AutoencoderTask(cache, device)
    fit(images, len(cache), _scaled(autoencoder.PLAN, scale), work, device)
    latents = autoencoder.encode_scenes(
        images.network, cache, work / f"latents-{len(cache)}.safetensors", device
    )
    task = diffusion.DiffusionTask(latents, cache, tokenizer, device)
    fit(task, len(cache), _scaled(diffusion.PLAN, scale), work, device)
    pipeline = diffusion.assemble_pipeline(images.network, task, tokenizer)
    pipeline.to(torch.float16).save_pretrained(out / "diffusion")


def _train_dense(cache: SceneCache, work: Path, out: Path, device: torch.device, scale: float) -> None:
    from freeda.toyworld.train import dense
    from freeda.toyworld.train.loop import fit

    task = dense.DenseTask(cache, device)
    fit(task, len(cache), _scaled(dense.PLAN, scale), work, device)
    dense.save(task, out / "dense")


def _train_clip(cache: SceneCache, work: Path, out: Path, device: torch.device, scale: float) -> None:
    from freeda.toyworld.train import clip
    from freeda.toyworld.train.loop import fit
    from freeda.toyworld.train.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(corpus(cache), work / "tokenizer")
    task = clip.ClipTask(cache, tokenizer, work, device)
    fit(task, len(cache), _scaled(clip.PLAN, scale), work, device)
    clip.save(task, tokenizer, out / "clip")


def corpus(cache: SceneCache) -> list[str]:
    """Every sentence of the training scenes, what the tokenizer learns from."""
    return [text for texts in (*cache.captions, *cache.mentions) for text in texts]


_TRAINERS: dict[str, Callable[[SceneCache, Path, Path, torch.device, float], None]] = {
    "diffusion": _train_diffusion,
    "dense": _train_dense,
    "clip": _train_clip,
}

if __name__ == "__main__":
    main()
