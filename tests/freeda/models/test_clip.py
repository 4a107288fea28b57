from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from freeda.errors import ClassNamesError
from freeda.class_names import ClassName
from freeda.records import NounSpan
from freeda.models.clip import load_clip
from freeda.models.tokens import noun_token_positions
from freeda.class_names import parse_classes
from index_build.generation.textual_keys import textual_keys

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}.", "art of the {}.")


def span(text: str, noun: str) -> NounSpan:
    start = text.index(noun)
    return NounSpan(noun=noun, start=start, end=start + len(noun))


def test_classes_are_parsed_from_text_list_and_file(tmp_path: Path) -> None:
    expected = (ClassName("cat", ("kitten",)), ClassName("fire truck"))
    assert parse_classes(" cat , kitten;fire  truck;") == expected
    assert parse_classes(["cat,kitten", "fire truck"]) == expected
    path = tmp_path / "classes.txt"
    path.write_text("cat, kitten\n\nfire truck\n")
    assert parse_classes(str(path)) == expected


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "no class names"),
        ("  \n ", "no class names"),
        ([], "no class names"),
        ("cat;;dog", "empty class name"),
        ("cat,;dog", "empty class name"),
        ("cat;dog;Cat", "'Cat' is given twice"),
        ("cat,kitten;dog,kitten", "'kitten' is given twice"),
        ("missing.txt", "cannot read class names"),
    ],
)
def test_bad_class_names_are_refused(classes: str | list[str], message: str) -> None:
    with pytest.raises(ClassNamesError, match=message):
        parse_classes(classes)


def test_token_positions_point_at_the_noun(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "two zebras, a fire truck and a kitten on grass"
    ids = clip.tokenize([text])[0]
    for noun in ("zebras", "fire truck", "kitten", "grass"):
        positions = noun_token_positions(clip.encode, text, span(text, noun), len(ids))
        assert positions is not None
        assert ids[list(positions)].tolist() == list(clip.encode(noun))


def test_token_positions_with_open_clip_s_own_tokenizer() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    text = "A photograph of unbelievably fluffy kittens beside a fire truck."
    ids = tokenizer([text])[0]
    for noun in ("kittens", "fire truck"):
        positions = noun_token_positions(tokenizer.encode, text, span(text, noun), 77)
        assert positions is not None
        assert ids[list(positions)].tolist() == tokenizer.encode(noun)


def test_a_noun_cut_off_by_truncation_has_no_position(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    limit = clip.tokenize(["x"]).shape[1]
    words = limit - 3
    fits = "cat " * words + "dog"
    cut = "cat " * (words + 1) + "dog"
    assert noun_token_positions(clip.encode, fits, span(fits, "dog"), limit) == (limit - 2,)
    assert noun_token_positions(clip.encode, cut, span(cut, "dog"), limit) is None


def test_class_embedding_is_the_normalised_mean_over_templates_and_synonyms(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    prompts = [t.format(name) for name in ("cat", "kitten") for t in TEMPLATES]
    with torch.no_grad():
        raw = clip.network.encode_text(clip.tokenize(prompts)).double().numpy()
    expected = raw.mean(0) / np.linalg.norm(raw.mean(0))
    found = clip.embed_classes([ClassName("dog"), ClassName("cat", ("kitten",))], TEMPLATES)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-6)
    assert abs(found[0] - found[1]).max() > 1e-3


def test_embedding_the_end_token_equals_the_text_embedding(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "a red cat on the grass"
    end = int(clip.tokenize([text])[0].argmax())
    np.testing.assert_allclose(
        clip.embed_tokens([text])[0, end], clip.embed_texts([text])[0], rtol=1e-4, atol=1e-5
    )


def test_keys_are_unit_vectors_that_differ_by_noun_and_mode(clip_folder: Path) -> None:
    clip = load_clip([str(clip_folder)], CPU)
    text = "a red cat and a dog on the grass"
    spans = [span(text, "cat"), span(text, "dog")]
    keys = {
        mode: textual_keys(clip, text, spans, mode, TEMPLATES) for mode in ("context", "template", "blend")
    }
    for pair in keys.values():
        np.testing.assert_allclose(np.linalg.norm(np.stack(pair), axis=1), 1.0, rtol=1e-5)
        assert abs(pair[0] - pair[1]).max() > 1e-3
    blended = keys["context"][0] + keys["template"][0]
    np.testing.assert_allclose(keys["blend"][0], blended / np.linalg.norm(blended), rtol=1e-5)
