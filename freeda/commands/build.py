"""`freeda build-index`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from freeda.commands.options import FACTORY, column_options
from freeda.presets.settings import PRECISIONS
from freeda.commands.progress_bar import ProgressBar, estimate_json, estimate_text, summary_json, summary_text

__all__ = ["build_index_command"]

_RUN_OPTIONS = ("workers", "threads", "scheduler", "device", "factory", "overwrite")
_CONFIG_OPTIONS = ("caption_column", "id_column", "nouns_column", "limit", "seed", "shard_size")


@click.command("build-index", context_settings={"show_default": True})
@click.argument("captions")
@click.option("--out", required=True, help="Folder of the index, a path or a URL.")
@click.option("--preset", default="toy", help="Preset name or .toml file; see `freeda presets`.")
@column_options
@click.option("--limit", type=click.IntRange(1), help="Take only so many captions.")
@click.option("--seed", type=int, default=0)
@click.option("--shard-size", type=click.IntRange(1), default=32, help="Captions with nouns a task.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine; else one a GPU.")
@click.option("--threads", type=click.IntRange(1), help="Of each process; else a share of the cores.")
@click.option("--scheduler", help="Use a running Dask cluster: tcp://HOST:PORT or a scheduler file.")
@click.option("--device", default="auto")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the diffusion model; else the preset's.")
@click.option("--factory", help=FACTORY)
@click.option("--overwrite", is_flag=True, help="Replace another index in --out.")
@click.option("--dry-run", is_flag=True, help="Try a few captions here and say what all would cost.")
@click.option(
    "--progress-log",
    type=click.Path(path_type=Path),
    help="File for progress as JSON lines; else progress.jsonl in --out, where that is a folder here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def build_index_command(captions: str, out: str, preset: str, **options: Any) -> None:
    """Build a prototype index from CAPTIONS, a parquet file, a folder of them, or a glob; a path or a
    URL such as s3://BUCKET/captions.

    Run the same command again after an interruption: it goes on where it stopped.
    """
    from freeda.presets import load_preset
    from index_build import BuildConfig, build_index
    from index_build.estimate import estimate_build
    from index_build.cluster.progress import log_progress

    chosen = load_preset(preset)
    if options["precision"]:
        chosen = replace(chosen, synthesis=replace(chosen.synthesis, precision=options["precision"]))
    config = BuildConfig(preset=chosen, **{name: options[name] for name in _CONFIG_OPTIONS})
    if options["dry_run"]:
        estimate = estimate_build(captions, config, device=options["device"])
        click.echo(estimate_json(estimate) if options["as_json"] else estimate_text(estimate))
        return
    log = options["progress_log"] or (None if "://" in out else Path(out) / "progress.jsonl")
    with ProgressBar(" captions") as bar:
        summary = build_index(
            captions,
            out,
            config,
            report=log_progress(log, bar.update) if log else bar.update,
            **{name: options[name] for name in _RUN_OPTIONS},
        )
    click.echo(summary_json(summary) if options["as_json"] else summary_text(summary))
