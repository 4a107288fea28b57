"""The offline job beside plain generation: what capturing, localising, pooling and Dask add.

Run from the checkout's root: `python benchmarks/offline.py [--device auto] [--write]`.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffsegmenter import make_pipeline
from diffusers.models.attention_processor import Attention
from distributed import Worker, WorkerPlugin
from measuring import PeakMemory, fastest, machine
from results import publish

import index_build.generation.prototypes
from freeda.models.diffusion import generate
from freeda.models.loading import choose_device, default_dtype
from freeda.presets import load_preset
from freeda.presets.settings import Synthesis
from freeda.records import Caption, TaggedCaption
from freeda.toyworld.captions import describe
from freeda.toyworld.scenes import draw_scene, scene_rng
from index_build import BuildConfig, Resources, build_index
from index_build.captions.cutting import cut
from index_build.captions.nouns import NounFinder
from index_build.captions.taggers import open_tagger
from index_build.cluster.connection import connect
from index_build.cluster.progress import Progress
from index_build.cluster.schedule import ShardSchedule
from index_build.cluster.workers import installed_models
from index_build.generation.outcome import ShardOutcome
from index_build.generation.prototypes import build_prototypes, load_models
from index_build.generation.synthesis import tokenize
from index_build.store.shards import WorkState
from index_build.store.storage import Folder

_HEADER = """## The offline job

`python benchmarks/offline.py --write`. Ratios are of the least times of runs that took turns; memory is the
peak above what was held before, over that of plain generation. Rows of one part (`--only`) are of one run.
"""
Row = tuple[str, str]


@dataclass(frozen=True)
class Size:
    """A Stable Diffusion of random weights and how it is run."""

    channels: tuple[int, ...]
    vae_channels: tuple[int, ...]
    side: int
    batch: int
    steps: int


FULL = Size((320, 640, 1280, 1280), (128, 256, 512, 512), 512, 4, 10)
SMALL = Size((64, 128, 256, 256), (64, 64, 128, 128), 512, 2, 4)


def captions(count: int) -> list[str]:
    texts = []
    for number in range(count):
        rng = scene_rng("validation", number)
        texts.append(describe(draw_scene(rng, 32), rng))
    return texts


def tagged(texts: list[str]) -> tuple[TaggedCaption, ...]:
    find_nouns = NounFinder(open_tagger())
    return tuple(
        TaggedCaption(Caption(id=str(number), text=text), tuple(find_nouns(text)))
        for number, text in enumerate(texts)
    )


class KeepAllMaps:
    """DAAM's way of capturing (Tang et al. 2023): every map of every head, layer and step is kept."""

    def __init__(self, inner: Any, count: int, kept: list[torch.Tensor]) -> None:
        self._inner, self._count, self._kept = inner, count, kept

    def __call__(
        self, attn: Attention, hidden: torch.Tensor, encoder_hidden_states: Any = None, **more: Any
    ) -> Any:
        if encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden[-self._count :]))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states[-self._count :]))
            self._kept.append(attn.get_attention_scores(query, key))
        return self._inner(attn, hidden, encoder_hidden_states=encoder_hidden_states, **more)


def generate_plain(pipeline: Any, texts: list[str], size: Size) -> None:
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        texts,
        height=size.side,
        width=size.side,
        num_inference_steps=size.steps,
        guidance_scale=7.5,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(len(texts))],
        output_type="pt",
    )


def capture(size: Size, device: torch.device, repeats: int) -> Iterator[Row]:
    """Time and memory of capturing, beside plain generation at the same batch and steps."""
    pipeline, texts = make_pipeline(device, size.channels, size.vae_channels), captions(size.batch)
    config = Synthesis(
        height=size.side, width=size.side, steps=size.steps, guidance_scale=7.5, batch=size.batch
    )
    positions = []
    for caption in tagged(texts):
        item, _ = tokenize(pipeline, caption.caption, caption.spans, 0)
        positions.append(item.positions if item else ())
    seeds = list(range(size.batch))

    plain = partial(generate_plain, pipeline, texts, size)

    def captured() -> None:
        generate(pipeline, texts, positions, seeds, config)

    def all_kept() -> None:
        before = dict(pipeline.unet.attn_processors)
        kept: list[torch.Tensor] = []
        pipeline.unet.set_attn_processor(
            {name: KeepAllMaps(inner, size.batch, kept) for name, inner in before.items()}
        )
        plain()
        pipeline.unet.set_attn_processor(before)

    plain()
    runs = (plain, captured, all_kept)
    times = fastest(runs, device, repeats)
    peaks = [_peak(run, device) for run in runs]
    yield f"plain generation, {size.batch} images, {size.steps} steps, s", f"{times[0]:.2f}"
    yield "capture over plain, time", f"{times[1] / times[0]:.3f}"
    yield "capture over plain, memory", f"{peaks[1] / peaks[0]:.3f}"
    yield "all maps kept (as DAAM does) over plain, time", f"{times[2] / times[0]:.3f}"
    yield "all maps kept (as DAAM does) over plain, memory", f"{peaks[2] / peaks[0]:.3f}"


def formats(size: Size, device: torch.device, repeats: int) -> Iterator[Row]:
    """What bfloat16, another memory format and a compiled UNet are worth to the same generation."""
    texts = captions(size.batch)
    eager, channels_last, compiled, brief = (
        make_pipeline(device, size.channels, size.vae_channels) for _ in range(4)
    )
    brief.to(torch.bfloat16)
    for network in (channels_last.unet, channels_last.vae):
        network.to(memory_format=torch.channels_last)
    compiled.unet.compile()

    pipelines = (eager, channels_last, compiled, brief)
    runs = [partial(generate_plain, pipeline, texts, size) for pipeline in pipelines]
    for once in runs:
        once()
    times = fastest(runs, device, repeats)
    yield "channels-last UNet and VAE over plain, time", f"{times[1] / times[0]:.3f}"
    yield "compiled UNet over plain, time (compiling not counted)", f"{times[2] / times[0]:.3f}"
    usual = str(default_dtype(device)).removeprefix("torch.")
    yield f"bfloat16 over {usual}, time", f"{times[3] / times[0]:.3f}"


def _peak(run: Callable[[], None], device: torch.device) -> float:
    gc.collect()
    if device.type != "cuda":
        with PeakMemory() as peak:
            run()
        return peak.megabytes
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def whole_job(device: torch.device, repeats: int) -> Iterator[Row]:
    """All of a shard, from tokens to features, over its pipeline alone; the toy's three models."""
    config = BuildConfig(preset=load_preset("toy"))
    models, synthesis = load_models(config.preset, str(device)), config.preset.synthesis
    texts = captions(2 * synthesis.batch)
    items = tagged(texts)

    def plain() -> None:
        for start in range(0, len(texts), synthesis.batch):
            models.pipeline(
                texts[start : start + synthesis.batch],
                height=synthesis.height,
                width=synthesis.width,
                num_inference_steps=synthesis.steps,
                guidance_scale=synthesis.guidance_scale,
                output_type="pt",
            )

    def job(overlap: bool) -> Callable[[], object]:
        return lambda: build_prototypes(items, models, config, overlap=overlap)

    plain()
    plain_seconds, apart, together = fastest((plain, job(False), job(True)), device, repeats)
    yield "whole job over plain generation, toy models, time", f"{apart / plain_seconds:.3f}"
    yield "the same, features of one batch while the next is generated", f"{together / plain_seconds:.3f}"


def scaling(count: int, cores: int) -> Iterator[Row]:
    """Captions per second of `cores` processes of one thread, over those of one."""
    alone, together = (_rate(count * workers, workers) for workers in (1, cores))
    yield f"{cores} workers over {cores} x one worker, rate", f"{together / alone / cores:.3f}"


def _rate(count: int, workers: int) -> float:
    """Captions per second from when the workers have their models until the last shard is finished."""
    seen: list[float] = []

    def note(progress: Progress) -> None:
        if progress.workers and not progress.message:
            seen.append(time.perf_counter())

    with TemporaryDirectory() as name:
        path = Path(name) / "captions.parquet"
        pq.write_table(pa.table({"caption": captions(count)}), path)
        config = BuildConfig(preset=load_preset("toy"), shard_size=8)
        build_index(
            str(path),
            Path(name) / "index",
            config,
            resources=Resources(workers=workers, threads=1),
            on_progress=note,
        )
    return count / (seen[-1] - seen[0])


class SimulatedModels(WorkerPlugin):
    """A worker whose models take so many seconds per shard, no core, and give nothing: what is left is the
    cost of Dask, of tagging and of files.
    """

    name = "simulated-models"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def setup(self, worker: Worker) -> None:
        index_build.generation.prototypes.load_models = lambda preset, device: _Nothing()  # type: ignore[assignment]
        index_build.generation.prototypes.build_prototypes = self.build  # type: ignore[assignment]

    def build(self, *_: object) -> ShardOutcome:
        time.sleep(self.seconds)
        return ShardOutcome()


class _Nothing:
    def describe(self) -> dict[str, str]:
        return {"none": "0"}


def _simulate(workers: int, seconds: float, count: int) -> tuple[float, float]:
    """Seconds for `count` captions, and the growth of the client's memory in MB."""
    config = BuildConfig(preset=load_preset("toy"))
    texts = captions(config.shard_size)
    rows = (Caption(id=str(n), text=texts[n % len(texts)]) for n in range(count))
    with TemporaryDirectory() as name, connect(Resources(workers=workers)) as client:
        client.register_plugin(SimulatedModels(seconds))
        with installed_models(client, config.preset, "cpu", 1) as models:
            client.wait_for_workers(workers)
            schedule = ShardSchedule(client, Folder(name), config, models, lambda: None)
            with PeakMemory() as peak:
                started = time.perf_counter()
                shards = cut(rows, config.shard_size, NounFinder(open_tagger()), {})
                schedule.run(shards, WorkState())
                return time.perf_counter() - started, peak.megabytes


def scheduling(count: int) -> Iterator[Row]:
    """What a caption costs where its models cost nothing, and how the client's memory grows."""
    elapsed, megabytes = _simulate(1, 0.0, count)
    yield (
        f"tagging, scheduling and writing, {count:,} captions of no cost, ms per caption",
        f"{elapsed / count * 1e3:.3f}",
    )
    yield "the client's memory meanwhile, MB", f"{megabytes:.0f}"


def simulated_scaling(workers: int, seconds: float, shards: int) -> Iterator[Row]:
    """The rate of many workers whose models only wait, over so many times that of one that does nothing
    but wait.
    """
    size = BuildConfig(preset=load_preset("toy")).shard_size
    elapsed, _ = _simulate(workers, seconds, workers * shards * size)
    yield (
        f"{workers} simulated workers of {seconds:.0f} s per shard over {workers} x one, rate",
        f"{shards * seconds / elapsed:.3f}",
    )


PARTS = ("capture", "formats", "whole job", "scaling", "simulated scaling", "scheduling")


def table(device: torch.device, repeats: int, count: int, parts: Sequence[str] = PARTS) -> Iterator[str]:
    size = FULL if device.type == "cuda" else SMALL
    yield f"{machine(device)}; UNet of {size.channels} channels at {size.side} px."
    yield ""
    yield "| | |"
    yield "|---|---|"
    rows = {
        "capture": capture(size, device, repeats),
        "formats": formats(size, device, repeats),
        "whole job": whole_job(device, repeats),
        "scaling": scaling(32, os.cpu_count() or 1),
        "simulated scaling": simulated_scaling(16, 4.0, 8),
        "scheduling": scheduling(count),
    }
    for part in parts:
        for name, value in rows[part]:
            yield f"| {name} | {value} |"


@click.command(context_settings={"show_default": True})
@click.option("--device", default="auto")
@click.option("--repeats", type=int, default=3)
@click.option("--count", type=int, default=100_000, help="Captions of no cost to schedule.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure these parts alone.")
def main(device: str, repeats: int, count: int, write: bool, only: tuple[str, ...]) -> None:
    """Prints the table."""
    if only and write:
        raise click.UsageError("--only prints; --write takes the whole table")
    publish("offline", [_HEADER], table(choose_device(device), repeats, count, only or PARTS), write=write)


if __name__ == "__main__":
    main()
