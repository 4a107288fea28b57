"""What a build would take, from a count of all captions and a timed sample on this machine."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from freeda.errors import NothingBuiltError
from freeda.records import Caption, Prototype, Reject, TaggedCaption
from index_build.captions.nouns import NounFinder, noun_spans
from index_build.captions.reader import CaptionSource, open_captions
from index_build.captions.taggers import open_tagger
from index_build.config import BuildConfig
from index_build.generation.prototypes import BuildModels, build_prototypes, load_models

__all__ = ["WORKER_COUNTS", "Estimate", "estimate_build"]

WORKER_COUNTS = (1, 2, 4, 8, 16, 32, 64)
_TAGGED_SAMPLE = 2000
_TIMED_BATCHES = 2
_VECTOR_BYTES, _KEY_BYTES = 2, 4  # as an index stores them


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a whole build would take.

    captions, rejects: counted.
    nouns, images: estimated from `tagged` captions.
    prototypes and all else: estimated from `timed` captions, built here after a first batch that is not
        counted.
    seconds, seconds_by_stage: of one worker like this machine.
    index_bytes, shard_bytes: of the index, and of the shards that are kept until it is finished.
    memory_bytes, device_memory_bytes: peak of this process, and of its GPU.
    """

    captions: int
    rejects: int
    tagged: int
    timed: int
    nouns: int
    images: int
    prototypes: int
    seconds: float
    seconds_by_stage: dict[str, float]
    index_bytes: int
    shard_bytes: int
    memory_bytes: int
    device_memory_bytes: int


def estimate_build(captions: str, config: BuildConfig, *, device: str = "auto") -> Estimate:
    """Counts all captions, tags some, builds a few in this process. Nothing is written.

    Raises `CaptionsError`, `ConfigError`, `ModelNotFoundError`, `NothingBuiltError`.
    """
    find_nouns = NounFinder(open_tagger(config.tagger))
    total, rejects, sample = _count(open_captions(captions, config))
    tagged = [TaggedCaption(item, tuple(noun_spans(item, find_nouns)[0])) for item in sample]
    with_nouns = [item for item in tagged if item.spans]
    if not with_nouns:
        raise NothingBuiltError(
            f"none of {len(sample)} captions looked at has a noun; give captions that name visible things"
        )
    models = load_models(config.preset, device)
    batch = config.preset.synthesis.batch
    build_prototypes(with_nouns[:batch], models, config)
    timed = (with_nouns * _TIMED_BATCHES)[: batch * _TIMED_BATCHES]
    started = time.perf_counter()
    outcome = build_prototypes(timed, models, config)
    elapsed = time.perf_counter() - started
    images = round(total * len(with_nouns) / len(sample))
    share = images / len(timed)
    prototypes = round(len(outcome.prototypes) * share)
    index_bytes, shard_bytes = _bytes_per_prototype(outcome.prototypes, models)
    return Estimate(
        captions=total + rejects,
        rejects=rejects,
        tagged=len(sample),
        timed=len(timed),
        nouns=round(total * sum(len(item.spans) for item in with_nouns) / len(sample)),
        images=images,
        prototypes=prototypes,
        seconds=elapsed * share,
        seconds_by_stage={stage: value * share for stage, value in outcome.seconds.items()},
        index_bytes=prototypes * index_bytes,
        shard_bytes=prototypes * shard_bytes,
        memory_bytes=_peak_memory(),
        device_memory_bytes=_peak_device_memory(),
    )


def _count(source: CaptionSource) -> tuple[int, int, list[Caption]]:
    """How many captions and rejects there are, and a sample of captions spread evenly over all."""
    rejects = sum(isinstance(item, Reject) for item in source)
    total = sum(not isinstance(item, Reject) for item in source)
    captions = (item for item in source if not isinstance(item, Reject))
    return total, rejects, list(islice(captions, 0, None, max(1, total // _TAGGED_SAMPLE)))


def _bytes_per_prototype(prototypes: Sequence[Prototype], models: BuildModels) -> tuple[int, int]:
    """In the index, and in the shards, whose numbers are single precision."""
    if not prototypes:
        return 0, 0
    text = float(np.mean([len(p.caption) + len(p.noun) + len(p.id) + len(p.thumbnail) for p in prototypes]))
    key, vector = len(prototypes[0].key), models.backbone.width
    return round(text + key * _KEY_BYTES + vector * _VECTOR_BYTES), round(text + 4 * (key + vector))


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_device_memory() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0
