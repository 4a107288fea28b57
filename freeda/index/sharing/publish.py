"""`publish_index`: an index as a data set's repository on the Hugging Face hub, with a card and a viewer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeda.errors import ConfigError
from freeda.index.card import code, escaped, index_card
from freeda.index.format import CARD, FILES, MANIFEST, ROWS_PER_BATCH, Manifest, manifest_text
from freeda.index.reader import PrototypeIndex
from freeda.index.sharing.hub import Published, upload

__all__ = ["publish_index"]

_VIEWER = "prototypes.parquet"
"""For the hub's viewer; no index is read from it."""
_SHOWN = ("id", "noun", "caption", "area", "peak", "seed", "thumbnail")
_TYPES = {pa.string(): "string", pa.float32(): "float32", pa.int64(): "int64"}
_SAMPLES = 10


def publish_index(
    name: str | Path,
    repository: str,
    *,
    captions_from: str = "",
    license: str = "",
    private: bool = False,
    revision: str = "main",
) -> Published:
    """Publishes an index, and says where.

    Its files go up as they are, but for two: the card gets what the hub reads (licence, models, size) and
    samples, and the manifest the new card's digest. A table for the hub's viewer is added.
    repository: USER/NAME.
    captions_from: where the captions came from, and their licence, in words.
    license: the hub's name of the index's licence; empty for "other".
    revision: a branch; it is made where there is none.
    Raises `RemoteError`, and the errors of opening an index.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(f"'{repository}' is no name of a repository; expected USER/NAME")
    index = PrototypeIndex.open(name, verify=True)
    card = published_card(index, repository, captions_from, license or "other").encode()
    files: dict[str, Path | bytes] = {part: index.folder / part for part in FILES}
    files |= {CARD: card, MANIFEST: manifest_text(_with_card(index.manifest, card)).encode()}
    with TemporaryDirectory(prefix="freeda-publish-") as temporary:
        files[_VIEWER] = Path(temporary) / _VIEWER
        write_viewer_table(index, Path(temporary) / _VIEWER)
        message = f"Prototype index of {len(index):,} prototypes"
        return upload(files, repository, private=private, revision=revision, message=message)


def _with_card(manifest: Manifest, card: bytes) -> Manifest:
    """The manifest of the same index with another card."""
    digests = {**manifest.files, CARD: hashlib.sha256(card).hexdigest()}
    return replace(manifest, files=digests, sizes={**manifest.sizes, CARD: len(card)})


def published_card(index: PrototypeIndex, repository: str, captions_from: str, license: str) -> str:
    """The index card with YAML that the hub reads, samples, and how to use the index."""
    body = index_card(index.manifest, index.noun_counts(), index.rejects())
    origin = escaped(captions_from) if captions_from else "not told"
    return f"""---
{_front_matter(index, repository, license)}
---

{body}
## Captions

Where they came from: {origin}.

| noun | caption |
|---|---|
{_samples(index)}

## Use

```sh
freeda segment photo.jpg --classes "cat; dog; grass" --index hf://{repository}
```

An index holds no code. {code("freeda index verify")} checks every byte of it.
"""


def _front_matter(index: PrototypeIndex, repository: str, license: str) -> str:
    """What the hub shows and finds data sets by, as YAML."""
    from huggingface_hub import DatasetCardData

    manifest = index.manifest
    models = {name for ids in manifest.preset["models"].values() for name in ids if _is_of_hub(name)}
    data = DatasetCardData(
        license=license,
        pretty_name=f"Prototype index {repository.split('/')[1]}",
        task_categories=["image-segmentation"],
        size_categories=_size_category(len(index)),
        tags=["freeda", "prototype-index", "open-vocabulary-segmentation"],
        configs=[{"config_name": "prototypes", "data_files": _VIEWER}],
        base_model=sorted(models) or None,
        prototypes=len(index),
        nouns=manifest.nouns,
        captions=manifest.captions,
    )
    return data.to_yaml().strip()


def _samples(index: PrototypeIndex) -> str:
    """Rows of a table: nouns and captions of prototypes from all over the index."""
    rows = np.linspace(0, len(index) - 1, min(_SAMPLES, len(index))).astype(int)
    named = index.rows(rows, ["noun", "caption"])
    return "\n".join(f"| {escaped(row['noun'])} | {escaped(row['caption'])} |" for row in named)


def write_viewer_table(index: PrototypeIndex, path: Path) -> None:
    """Writes the prototypes without their vectors as Parquet; thumbnails are images to the hub."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    held = {"id": pa.string(), "noun": pa.string(), "caption": pa.string(), "area": pa.float32()}
    held |= {"peak": pa.float32(), "seed": pa.int64()}
    features: dict[str, Any] = {
        name: {"dtype": _TYPES[kind], "_type": "Value"} for name, kind in held.items()
    }
    features["thumbnail"] = {"_type": "Image"}
    schema = pa.schema({**held, "thumbnail": image}).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    with pq.ParquetWriter(path, schema) as writer:
        for rows in _batches(index):
            for row in rows:
                row["thumbnail"] = {"bytes": row["thumbnail"], "path": None}
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _batches(index: PrototypeIndex) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(index), ROWS_PER_BATCH):
        yield index.rows(range(start, min(start + ROWS_PER_BATCH, len(index))), _SHOWN)


def _is_of_hub(model: str) -> bool:
    return not model.startswith(("package:", "local:", ".", "/")) and model.count("/") == 1


def _size_category(count: int) -> str:
    bounds = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[sum(count >= bound for bound in bounds)]
