"""What the commands show: progress on standard error, results as text or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeda.index.format import Manifest
    from freeda.segmentation.result import Segmentation
    from index_build import BuildSummary
    from index_build.estimate import Estimate

__all__ = [
    "ProgressBar",
    "edited_text",
    "estimate_json",
    "estimate_text",
    "result_json",
    "result_text",
    "summary_json",
    "summary_text",
]


class ProgressBar:
    """A tqdm bar on standard error."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm

        self._bar = tqdm(unit=self._unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, done: int, total: int) -> None:
        self._bar.total = total
        if self._bar.n == 0:  # what an earlier run did is no speed of this one
            self._bar.initial = done
        self._bar.update(done - self._bar.n)

    def count(self, done: int) -> None:
        """Of something whose end is not known."""
        self._bar.update(done - self._bar.n)

    def update(self, progress: Any) -> None:
        if progress.note:
            self._bar.write(progress.note, file=sys.stderr)
            return
        self._bar.total = progress.total
        self._bar.set_description(progress.message or "building", refresh=False)
        busy = sum(state == "busy" for state in progress.workers.values())
        counts = {"prototypes": progress.prototypes, "rejects": progress.rejects}
        if progress.resumed > self._bar.initial:  # what an earlier run did is no speed of this one
            self._bar.initial = progress.resumed
        if new := progress.images - progress.resumed_images:
            counts["images/s"] = f"{new / self._bar.format_dict['elapsed']:.2f}"
        if progress.workers:
            counts["workers"] = f"{busy}/{len(progress.workers)} busy"
        self._bar.set_postfix(counts, refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._bar.refresh()


def result_text(path: Path, result: Segmentation, written: Sequence[Path]) -> str:
    found = ", ".join(f"{item['label']} {item['share']:.0%}" for item in result.segments_info)
    return f"{path}: {found or 'nothing decided'}  ->  {', '.join(str(item) for item in written)}"


def result_json(path: Path, result: Segmentation, written: Sequence[Path]) -> str:
    files = [str(item) for item in written]
    return json.dumps(
        {"image": str(path), "segments": result.segments_info, "files": files}, ensure_ascii=False
    )


def edited_text(name: str, manifest: Manifest, note: str) -> str:
    return f"{name}: {manifest.prototypes:,} prototypes of {manifest.nouns:,} nouns ({note})"


def estimate_json(estimate: Estimate) -> str:
    from dataclasses import asdict

    return json.dumps(asdict(estimate))


def estimate_text(estimate: Estimate) -> str:
    from index_build.estimate import WORKER_COUNTS

    stages = ", ".join(f"{name} {_duration(value)}" for name, value in estimate.seconds_by_stage.items())
    times = ", ".join(f"{count}: {_duration(estimate.seconds / count)}" for count in WORKER_COUNTS)
    index, shards = _size(estimate.index_bytes), _size(estimate.shard_bytes)
    memory = f"{_size(estimate.memory_bytes)} a process"
    if estimate.device_memory_bytes:
        memory += f", {_size(estimate.device_memory_bytes)} of its GPU"
    return "\n".join(
        [
            f"captions    {estimate.captions:,}, {estimate.rejects:,} of them not usable",
            f"nouns       about {estimate.nouns:,} (from {estimate.tagged:,} captions tagged)",
            f"images      about {estimate.images:,}",
            f"prototypes  about {estimate.prototypes:,} (from {estimate.timed:,} captions built here)",
            f"time        by workers (GPUs) like this machine's: {times}",
            f"of one      {stages}",
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


def summary_json(summary: BuildSummary) -> str:
    from dataclasses import asdict

    return json.dumps(asdict(summary), default=str)


def summary_text(summary: BuildSummary) -> str:
    if summary.already_built:
        return f"{summary.out} is this very index already: {summary.prototypes:,} prototypes; nothing to do"
    rejects = ", ".join(f"{count:,} {reason}" for reason, count in summary.rejects.items()) or "none"
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in summary.seconds.items()) or "none"
    return "\n".join(
        [
            f"index       {summary.out} (open report.html in it)",
            f"captions    {summary.captions:,}",
            f"images      {summary.images:,}",
            f"prototypes  {summary.prototypes:,} of {summary.nouns:,} nouns",
            f"rejects     {rejects}",
            f"seconds     {seconds}",
            f"elapsed     {summary.elapsed:.1f} s ({_earlier(summary)})",
        ]
    )


def _earlier(summary: BuildSummary) -> str:
    told = f"{summary.resumed_shards} shards from an earlier run"
    if summary.damaged_shards:
        told += f", {summary.damaged_shards} of its shards were damaged and are built anew"
    return told
