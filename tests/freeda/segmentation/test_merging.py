from __future__ import annotations

import numpy as np
import pytest
from skimage.graph import RAG, merge_hierarchical

from freeda.records import Regions
from freeda.segmentation.merging import merge_alike


def merged_by_library(regions: Regions, features: np.ndarray, similarity: float) -> np.ndarray:
    """The same by scikit-image's region adjacency graph and its own hierarchical merging."""
    graph = RAG(regions.labels)
    for number, node in graph.nodes(data=True):
        node["labels"] = [number]
        node["sum"] = features[number].astype(np.float64) * (regions.labels == number).sum()

    def distance(graph: RAG, one: int, other: int) -> float:
        first, second = graph.nodes[one]["sum"], graph.nodes[other]["sum"]
        return float(1 - first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    def add(graph: RAG, gone: int, kept: int) -> None:
        graph.nodes[kept]["sum"] = graph.nodes[kept]["sum"] + graph.nodes[gone]["sum"]

    for one, other in graph.edges:
        graph.edges[one, other]["weight"] = distance(graph, one, other)
    return np.asarray(
        merge_hierarchical(
            regions.labels,
            graph,
            thresh=1 - similarity,
            rag_copy=False,
            in_place_merge=True,
            merge_func=add,
            weight_func=lambda graph, _, kept, other: {"weight": distance(graph, kept, other)},
        )
    )


def mosaic(rng: np.random.Generator, rows: int = 6, columns: int = 7) -> Regions:
    """Rectangles of uneven sides."""
    down = np.repeat(np.arange(rows), rng.integers(1, 5, rows))
    across = np.repeat(np.arange(columns), rng.integers(1, 5, columns))
    return Regions((down[:, None] * columns + across).astype(np.int32))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(one)) == len(np.unique(other))


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_the_same_regions_as_the_library_s_hierarchical_merging(similarity: float) -> None:
    counts = set()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        regions = mosaic(rng)
        features = rng.normal(size=(len(regions), 4)).astype(np.float32)
        found = merge_alike(regions, features, similarity)
        assert same_partition(found.labels, merged_by_library(regions, features, similarity))
        assert sorted(np.unique(found.labels)) == list(range(len(found)))
        counts.add(len(found))
    assert max(counts) < 42
    assert min(counts) > 1


def test_only_neighbours_merge() -> None:
    regions = Regions(np.array([[0, 0, 1, 1, 2, 2]], np.int32))
    features = np.array([[1.0, 0], [0, 1], [1, 0]])
    assert len(merge_alike(regions, features, 0.5)) == 3


def test_a_merged_region_is_compared_by_its_area_weighted_mean() -> None:
    # 0 and 1 merge; by area their mean points as 0 does, away from 2, which is near 1.
    labels = np.array([[0] * 50 + [1] + [2] * 9], np.int32)
    features = np.array([[1.0, 0.0], [0.8, 0.6], [0.1, 0.995]])
    found = merge_alike(Regions(labels), features, 0.65)
    assert found.labels[0, 0] == found.labels[0, 50] != found.labels[0, 51]


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_feature_that_is_none_merges_with_nothing(bad: float) -> None:
    regions = Regions(np.array([[0, 1, 2]], np.int32))
    features = np.array([[1.0, 1.0], [bad, bad], [1.0, 1.0]])
    assert len(merge_alike(regions, features, 0.1)) == 3


def test_one_region_stays() -> None:
    assert len(merge_alike(Regions(np.zeros((2, 3), np.int32)), np.ones((1, 4)), 0.5)) == 1
