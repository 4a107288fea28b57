"""`freeda build-index`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.options import DEVICE, FACTORY, INDEX_DEVICE, SCHEDULER, TAGGER, WORKERS, column_options
from freeda.commands.paths import require_writable
from freeda.commands.progress_bar import ProgressBar
from freeda.errors import masked
from freeda.presets.settings import PRECISIONS

if TYPE_CHECKING:
    from index_build import BuildConfig, BuildSummary
    from index_build.estimate import Estimate

__all__ = ["build_index_command"]

_CONFIG_OPTIONS = ("caption_column", "id_column", "nouns_column", "limit", "seed", "tagger", "shard_size")
_RESOURCE_OPTIONS = ("workers", "threads", "scheduler", "device", "index_device")


@click.command("build-index", context_settings={"show_default": True})
@click.argument("captions")
@click.option("--out", required=True, help="Folder of the index: a path or a URL.")
@click.option("--preset", default="toy", help="Preset name or .toml file; see `freeda presets`.")
@column_options
@TAGGER
@click.option("--limit", metavar="N", type=click.IntRange(1), help="Read only the first N captions.")
@click.option("--seed", type=int, default=0, help="Seed of all images.")
@click.option("--shard-size", type=click.IntRange(1), default=32, help="Captions with nouns per task.")
@WORKERS
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads per worker.  [default: equal share of the cores]"
)
@SCHEDULER
@DEVICE
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Of the diffusion model.  [default: the preset's]"
)
@FACTORY
@INDEX_DEVICE
@click.option("--overwrite", is_flag=True, help="Replace another index in --out.")
@click.option("--dry-run", is_flag=True, help="Build a few captions here and estimate the cost of all.")
@click.option(
    "--progress-log",
    type=click.Path(path_type=Path),
    help="File for progress as JSON lines.  [default: progress.jsonl in a local --out]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def build_index_command(captions: str, out: str, **options: Any) -> None:
    """Build a prototype index from CAPTIONS: a parquet file, a folder of them, or a glob; a path or a URL
    such as s3://BUCKET/captions.

    Run the same command again after an interruption: it resumes.
    """
    require_writable(out)
    config = _config(options)
    if options["dry_run"]:
        from index_build.estimate import estimate_build

        estimate = estimate_build(captions, config, device=options["device"])
        click.echo(json.dumps(asdict(estimate)) if options["as_json"] else _estimate_text(estimate))
        return
    summary = _build(captions, out, config, options)
    shown = masked(json.dumps(asdict(summary), default=str)) if options["as_json"] else _summary_text(summary)
    click.echo(shown)


def _config(options: dict[str, Any]) -> BuildConfig:
    from freeda.index.keys import check_factory
    from freeda.presets import load_preset
    from index_build.captions.taggers import check_tagger
    from index_build.config import BuildConfig

    check_tagger(options["tagger"])
    if options["factory"]:
        check_factory(options["factory"])
    preset = load_preset(options["preset"])
    if options["precision"]:
        preset = replace(preset, synthesis=replace(preset.synthesis, precision=options["precision"]))
    return BuildConfig(preset=preset, **{name: options[name] for name in _CONFIG_OPTIONS})


def _build(captions: str, out: str, config: BuildConfig, options: dict[str, Any]) -> BuildSummary:
    from index_build import Resources, build_index
    from index_build.cluster.progress import log_progress

    log = options["progress_log"] or (None if "://" in out else Path(out) / "progress.jsonl")
    with ProgressBar(" captions") as bar:
        return build_index(
            captions,
            out,
            config,
            resources=Resources(**{name: options[name] for name in _RESOURCE_OPTIONS}),
            factory=options["factory"],
            overwrite=options["overwrite"],
            on_progress=log_progress(log, bar.update) if log else bar.update,
        )


def _estimate_text(estimate: Estimate) -> str:
    from index_build.estimate import WORKER_COUNTS

    stages = ", ".join(f"{name} {_duration(value)}" for name, value in estimate.seconds_by_stage.items())
    times = ", ".join(f"{count}: {_duration(estimate.seconds / count)}" for count in WORKER_COUNTS)
    index, shards = _size(estimate.index_bytes), _size(estimate.shard_bytes)
    memory = f"{_size(estimate.memory_bytes)} per process"
    if estimate.device_memory_bytes:
        memory += f", {_size(estimate.device_memory_bytes)} on its GPU"
    return "\n".join(
        [
            f"captions    {estimate.captions:,}, {estimate.rejects:,} of them not usable",
            f"nouns       about {estimate.nouns:,} (from {estimate.tagged:,} captions tagged)",
            f"images      about {estimate.images:,}",
            f"prototypes  about {estimate.prototypes:,} (from {estimate.timed:,} captions built here)",
            f"time        by number of workers (GPUs) like this machine: {times}",
            f"one worker  {stages}",
            f"disk        {index}, and {shards} until it is finished",
            f"memory      {memory}",
            "nothing was written",
        ]
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _summary_text(summary: BuildSummary) -> str:
    if summary.already_built:
        held = f"{masked(summary.out)} holds this index already"
        return f"{held}: {summary.prototypes:,} prototypes; nothing to do"
    rejects = ", ".join(f"{count:,} {reason}" for reason, count in summary.rejects.items()) or "none"
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in summary.seconds.items()) or "none"
    return "\n".join(
        [
            f"index       {masked(summary.out)} (open report.html in it)",
            f"captions    {summary.captions:,}",
            f"images      {summary.images:,}",
            f"prototypes  {summary.prototypes:,} of {summary.nouns:,} nouns",
            f"rejects     {rejects}",
            f"seconds     {seconds}",
            f"elapsed     {summary.elapsed:.1f} s ({_earlier(summary)})",
        ]
    )


def _earlier(summary: BuildSummary) -> str:
    text = f"{summary.resumed_shards} shards from an earlier run"
    if summary.damaged_shards:
        text += f", {summary.damaged_shards} of its shards were damaged and were built again"
    return text
