from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from freeda.class_names import ClassName
from freeda.errors import ConfigError
from freeda.index.noun_keys import NounKeys, frequent_nouns
from freeda.index.reader import PrototypeIndex
from freeda.methods.freeda import load
from freeda.methods.freeda.concepts import other_nouns
from tests.freeda.methods.contract import picture

CAT = (ClassName("cat", ("kitten",)),)


def nouns(*keys: np.ndarray) -> NounKeys:
    names = tuple(f"noun {number}" for number in range(len(keys)))
    return NounKeys(names, np.stack(keys), tuple(np.array([2 * n, 2 * n + 1]) for n in range(len(keys))))


def unit(rng: np.random.Generator, count: int, width: int = 32) -> np.ndarray:
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_nouns_that_stand_for_a_class_are_no_background() -> None:
    rng = np.random.default_rng(0)
    text = unit(rng, 1)
    near = text[0] + 0.3 * unit(rng, 1)[0]
    found = nouns(*unit(rng, 40), near / np.linalg.norm(near))
    names = list(found.names)
    names[5] = "Kitten"
    found = replace(found, names=tuple(names))
    retrieved = np.array([[14, 15, 16, -1]])  # both prototypes of noun 7, one of noun 8
    concepts = other_nouns(found, CAT, text, retrieved)
    assert "Kitten" not in concepts.names
    assert "noun 40" not in concepts.names, "its key is unusually near"
    assert "noun 7" not in concepts.names
    similarities = found.keys @ text[0]
    far = similarities <= similarities.mean() + 2 * similarities.std()
    left_out = ("Kitten", "noun 7", "noun 8")
    assert concepts.names == tuple(
        name for name, kept in zip(names, far, strict=True) if kept and name not in left_out
    )
    np.testing.assert_array_equal(concepts.texts[0], found.keys[0])


def test_an_index_of_the_classes_alone_tells_no_background() -> None:
    with pytest.raises(ConfigError, match="no noun besides those of the classes.*--threshold"):
        other_nouns(
            nouns(*unit(np.random.default_rng(0), 1)), CAT, np.ones((1, 32), np.float32), np.arange(2)
        )


def test_frequent_nouns_have_the_mean_key_of_their_prototypes(index_folder: Path) -> None:
    index = PrototypeIndex.open(index_folder)
    found = frequent_nouns(index, 3)
    assert found.names == tuple(index.noun_counts())[:3]
    held = list(index.column("noun"))
    for name, key, rows in zip(found.names, found.keys, found.rows, strict=True):
        assert rows.tolist() == [row for row, noun in enumerate(held) if noun == name]
        mean = index.keys_of(rows).astype(np.float64).mean(0)
        np.testing.assert_allclose(key, mean / np.linalg.norm(mean), rtol=1e-5)


def test_the_index_s_nouns_compete_as_classes_of_their_keys(index_folder: Path) -> None:
    segmenter = load(index_folder, background=True)
    vocabulary = segmenter.encode_classes("cat; dog")
    index = segmenter.method.index
    assert set(vocabulary.concepts) <= set(index.noun_counts())
    assert len(vocabulary.concepts) >= 3
    scores = segmenter.method.score_image(picture(56, 56), vocabulary)
    expected = scores.argmax(0).numpy()
    result = segmenter.segment(picture(56, 56), "cat; dog")
    np.testing.assert_array_equal(result.labels, np.where(expected < 2, expected + 1, 0))
    assert {0} < set(np.unique(result.labels)) or (result.labels == 0).all()
    named = dict(zip(frequent_nouns(index, 500).names, frequent_nouns(index, 500).keys, strict=True))
    for row, name in enumerate(vocabulary.concepts, 2):
        np.testing.assert_array_equal(vocabulary.texts[row], named[name])
    evidence = result.explain(5, 5)
    assert all(np.isfinite(item.score) for item in evidence.candidates)
