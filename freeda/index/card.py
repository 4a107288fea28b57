"""The index card: what an index holds, for people, in Markdown."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from freeda.errors import printable
from freeda.index.format import Manifest
from freeda.index.keys import RECALL_AT

__all__ = ["code", "escaped", "index_card"]


def escaped(text: str) -> str:
    """Words of captions as plain text in Markdown: no HTML, links, code or table cells."""
    marked = re.sub(r"([\\`*_\[\]|#!])", r"\\\1", html.escape(printable(text)))
    return marked.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def code(text: str) -> str:
    """A name as code in Markdown, in which nothing has a meaning but the end."""
    return f"`{printable(text).replace('`', '')}`"


def index_card(manifest: Manifest, nouns: Mapping[str, int], rejects: pa.Table) -> str:
    """The index card, for people."""
    preset = manifest.preset
    models = "\n".join(
        f"| {escaped(kind)} | {escaped(', '.join(ids))} | {escaped(manifest.fingerprints[kind])} "
        f"| {escaped(manifest.licenses.get(kind, 'unknown'))} |"
        for kind, ids in preset["models"].items()
        if kind in manifest.fingerprints
    )
    common = ", ".join(f"{escaped(noun)} ({count})" for noun, count in Counter(nouns).most_common(60))
    reasons = pc.value_counts(rejects.column("reason")).to_pylist()
    rejected = "\n".join(
        f"| {escaped(item['values'])} | {item['counts']} |"
        for item in sorted(reasons, key=lambda item: (-item["counts"], item["values"]))
    )
    build = code(manifest.build_fingerprint)
    return f"""# Prototype index

{manifest.prototypes:,} textual-visual prototypes of {manifest.nouns:,} nouns, from
{manifest.captions:,} captions.
Keys: {manifest.key_dim}-d, L2-normalised, in FAISS as {code(manifest.factory)} (recall@{RECALL_AT}
{manifest.recall:.3f}). Visual vectors: {manifest.vector_dim}-d, raw, float16.
Built with preset {code(preset["name"])}, seed {manifest.seed}, build fingerprint {build}.

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
