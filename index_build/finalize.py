"""Finished shards become the index folder; its manifest is written last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from freeda.config import Preset
from freeda.errors import CaptionsError
from freeda.index import CARD, KEYS, MANIFEST, PROTOTYPES, REJECTS, Manifest, write_files, write_manifest
from freeda.records import Reject
from index_build.shards import ShardReport, count_nouns, read_prototypes, read_rejects, reject_table

__all__ = ["Origin", "finalize"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an index is built from: the preset, the models' fingerprints, the settings, and the
    fingerprint of all of it.
    """

    preset: Preset
    models: Mapping[str, str]
    build: Mapping[str, Any]
    fingerprint: str
    seed: int = 0


def finalize(
    out: Path,
    work: Path,
    reports: Sequence[ShardReport],
    early_rejects: Sequence[Reject],
    origin: Origin,
) -> Manifest:
    """Writes keys, prototypes, rejects, card and manifest into `out`."""
    shards = len(reports)
    rejects = pa.concat_tables([reject_table(early_rejects), read_rejects(work, shards)])
    if not sum(report.prototypes for report in reports):
        raise CaptionsError(_nothing_built(rejects))
    (out / MANIFEST).unlink(missing_ok=True)
    first = next(read_prototypes(work, shards))
    count = write_files(out, read_prototypes(work, shards), len(first.key), len(first.vector))
    nouns = count_nouns(work, shards)
    pq.write_table(rejects, out / REJECTS)
    manifest = Manifest(
        preset=origin.preset.as_dict(),
        fingerprints=dict(origin.models),
        key_dim=len(first.key),
        vector_dim=len(first.vector),
        prototypes=count,
        nouns=len(nouns),
        captions=sum(report.captions for report in reports) + len(early_rejects),
        rejects=rejects.num_rows,
        build=dict(origin.build),
        build_fingerprint=origin.fingerprint,
        seed=origin.seed,
        licenses=dict(origin.preset.licenses),
    )
    (out / CARD).write_text(_card(manifest, nouns, rejects), encoding="utf-8")
    write_manifest(out, manifest, (KEYS, PROTOTYPES, REJECTS, CARD))
    return manifest


def _nothing_built(rejects: pa.Table) -> str:
    reasons = Counter(rejects.column("reason").to_pylist()).most_common(3)
    listed = ", ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"no caption gave a prototype ({listed}); give captions that name visible things"


def _card(manifest: Manifest, nouns: Counter[str], rejects: pa.Table) -> str:
    """The index card, for people."""
    preset = manifest.preset
    models = "\n".join(
        f"| {kind} | {', '.join(ids)} | {manifest.fingerprints[kind]} "
        f"| {manifest.licenses.get(kind, 'unknown')} |"
        for kind, ids in preset["models"].items()
    )
    common = ", ".join(f"{noun} ({count})" for noun, count in nouns.most_common(60))
    reasons = pc.value_counts(rejects.column("reason")).to_pylist()
    rejected = "\n".join(
        f"| {item['values']} | {item['counts']} |"
        for item in sorted(reasons, key=lambda item: (-item["counts"], item["values"]))
    )
    return f"""# Prototype index

{manifest.prototypes:,} textual-visual prototypes of {manifest.nouns:,} nouns, from
{manifest.captions:,} captions.
Keys: {manifest.key_dim}-d, L2-normalised. Visual vectors: {manifest.vector_dim}-d, raw, float16.
Built with preset `{preset["name"]}`, seed {manifest.seed}, build fingerprint `{manifest.build_fingerprint}`.

| model | ids | weights | licence |
|---|---|---|---|
{models}

## Nouns, the most frequent

{common}

## Rejects

| reason | count |
|---|---|
{rejected}
"""
