"""Selecting some of very many captions: near-duplicates left out, nouns covered evenly."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np

from freeda.class_names import ClassName
from freeda.errors import CaptionsError
from freeda.index.near_duplicates import near_duplicates
from freeda.models.sentences import Embed
from freeda.records import Caption, Reject
from index_build.captions.nouns import UNTAGGED, FindNouns, noun_spans, singular
from index_build.captions.reader import CaptionSource

__all__ = ["Selection", "SelectionSettings", "chosen_captions", "select_captions"]

_BATCH = 1024
_CLUSTER_SIZE = 1000
_SAMPLE_PER_CLUSTER = 256
"""The most points per centre that FAISS's k-means uses."""


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """What is to be chosen.

    budget: how many captions.
    vocabulary: if given, only these names count as nouns.
    similarity: cosine of embeddings above which captions are duplicates.
    """

    budget: int
    vocabulary: Sequence[ClassName] = ()
    similarity: float = 0.9
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which captions were chosen.

    numbers: their rows, ascending.
    captions: how many were readable.
    repeats: how many were left out as near-duplicates.
    without_nouns: how many have no noun, or none of the vocabulary.
    untagged: how many of these the tagger failed on.
    nouns: how often each noun occurs in the chosen captions, most frequent first.
    uncovered: classes of the vocabulary that occur in none.
    """

    numbers: tuple[int, ...]
    captions: int
    repeats: int
    without_nouns: int
    untagged: int
    nouns: dict[str, int]
    uncovered: tuple[str, ...] = ()


def select_captions(
    source: CaptionSource,
    settings: SelectionSettings,
    embed: Embed,
    find_nouns: FindNouns,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Selection:
    """Chooses captions that cover their nouns as evenly as possible.

    First near-duplicates are left out: embeddings are clustered, and a caption is dropped whose cosine to an
    earlier kept one of its cluster is at least `settings.similarity` (Abbas et al. 2023, SemDeDup). Then
    captions are taken one by one, always the one that adds most, where each of its nouns counts 1 / (1 + how
    often it was taken already): the greedy maximum of a submodular coverage.

    embed: sentence embeddings.
    on_progress: called with the captions read.
    Captions are streamed; their embeddings lie in a temporary file. Raises `CaptionsError`.
    """
    wanted = _forms(settings.vocabulary)
    with TemporaryDirectory(prefix="freeda-select-") as folder:
        path = Path(folder) / "embeddings.f32"
        survey = _survey(source, embed, find_nouns, wanted, path, on_progress)
        numbers, nouns = survey.numbers, survey.nouns
        if not numbers:
            raise CaptionsError("no caption names anything; give captions that name visible things")
        vectors = np.memmap(path, np.float32, "r").reshape(len(numbers), -1)
        repeats = _repeated(vectors, settings.similarity, settings.seed)
    useful = [row for row in range(len(numbers)) if nouns[row] and not repeats[row]]
    chosen = _cover(useful, nouns, numbers, settings.budget, settings.seed)
    counts: dict[str, int] = {}
    for row in chosen:
        for noun in nouns[row]:
            counts[noun] = counts.get(noun, 0) + 1
    return Selection(
        numbers=tuple(sorted(numbers[row] for row in chosen)),
        captions=len(numbers),
        repeats=int(repeats.sum()),
        without_nouns=sum(not found for found in nouns),
        untagged=survey.untagged,
        nouns=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        uncovered=tuple(item.name for item in settings.vocabulary if item.name not in counts),
    )


def chosen_captions(source: CaptionSource, selection: Selection) -> Iterator[Caption]:
    """The chosen ones of `source`, in its order."""
    wanted = frozenset(selection.numbers)
    for number, item in enumerate(source):
        if number in wanted and isinstance(item, Caption):
            yield item


def _forms(vocabulary: Sequence[ClassName]) -> dict[str, str]:
    """From every name, as given and in the singular, to its class; captions' nouns are singular."""
    forms: dict[str, str] = {}
    for item in vocabulary:
        for name in (name.lower() for name in item.names):
            forms[name] = forms[singular(name)] = item.name
    return forms


@dataclass
class _Survey:
    """The rows that are captions, the nouns of each, and how many the tagger failed on."""

    numbers: list[int] = field(default_factory=list)
    nouns: list[tuple[str, ...]] = field(default_factory=list)
    untagged: int = 0


def _survey(
    source: CaptionSource,
    embed: Embed,
    find_nouns: FindNouns,
    wanted: dict[str, str],
    path: Path,
    on_progress: Callable[[int], None],
) -> _Survey:
    """Reads the captions; their embeddings go to `path`, row after row."""
    survey = _Survey()
    rows = ((n, item) for n, item in enumerate(source) if not isinstance(item, Reject))
    with path.open("wb") as file:
        while batch := list(islice(rows, _BATCH)):
            file.write(embed([item.text for _, item in batch]).tobytes())
            for number, item in batch:
                spans, missing = noun_spans(item, find_nouns)
                survey.numbers.append(number)
                survey.nouns.append(_chosen_nouns([span.noun for span in spans], wanted))
                survey.untagged += any(reject.reason.startswith(UNTAGGED) for reject in missing)
            on_progress(len(survey.numbers))
    return survey


def _chosen_nouns(found: list[str], wanted: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([wanted[noun] for noun in found if noun in wanted] if wanted else found))


def _repeated(vectors: np.ndarray, similarity: float, seed: int) -> np.ndarray:
    """(N,) bool: which rows are near-duplicates of one kept before them in their cluster."""
    repeats = np.zeros(len(vectors), bool)
    clusters = _clusters(vectors, seed)
    order = np.argsort(clusters, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1):
        repeats[rows] = near_duplicates(vectors[rows], similarity=similarity)
    return repeats


def _clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(N,) int64: the k-means cluster of each, about `_CLUSTER_SIZE` to a cluster."""
    count = len(vectors) // _CLUSTER_SIZE
    if count < 2:
        return np.zeros(len(vectors), np.int64)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(vectors), min(len(vectors), count * _SAMPLE_PER_CLUSTER), replace=False))
    means = faiss.Kmeans(vectors.shape[1], count, niter=10, seed=seed, spherical=True)
    means.train(np.ascontiguousarray(vectors[sample]))
    parts = (vectors[start : start + _BATCH] for start in range(0, len(vectors), _BATCH))
    assigned = [means.index.search(np.ascontiguousarray(part), 1)[1][:, 0] for part in parts]
    return np.concatenate(assigned)


def _cover(
    useful: Sequence[int],
    nouns: Sequence[tuple[str, ...]],
    numbers: Sequence[int],
    budget: int,
    seed: int,
) -> list[int]:
    """Lazy greedy: a gain only ever falls, so the best of the stale ones is checked first."""
    counts: dict[str, int] = {}

    def gain(row: int) -> float:
        return sum(1 / (1 + counts.get(noun, 0)) for noun in nouns[row])

    heap = [(-gain(row), _lot(seed, numbers[row]), row) for row in useful]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < budget:
        stale, lot, row = heapq.heappop(heap)
        present = -gain(row)
        if heap and present > stale:
            heapq.heappush(heap, (present, lot, row))
            continue
        chosen.append(row)
        for noun in nouns[row]:
            counts[noun] = counts.get(noun, 0) + 1
    return chosen


def _lot(seed: int, number: int) -> bytes:
    """Which of equals comes first: by chance, but the same in every run."""
    return hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
