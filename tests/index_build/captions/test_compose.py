from __future__ import annotations

import re

import pytest

from freeda.class_names import ClassName, parse_classes
from freeda.errors import CaptionsError
from index_build.captions.compose import compose_captions
from index_build.captions.nouns import NounFinder, noun_spans
from index_build.captions.taggers import open_tagger

CLASSES = parse_classes("cat, kitten; fire truck; grass; scissors; owl")


def test_every_class_and_synonym_gets_its_captions_and_all_differ() -> None:
    captions = list(compose_captions(CLASSES, 40))
    assert len({item.text for item in captions}) == len({item.id for item in captions}) == 200
    about = [item.nouns[0] for item in captions if item.nouns]
    assert {name: about.count(name) for name in about} == {
        "cat": 20,
        "kitten": 20,
        "fire truck": 40,
        "grass": 40,
        "scissors": 40,
        "owl": 40,
    }
    assert sum(len(item.nouns or ()) == 2 for item in captions) > 40


def test_the_nouns_given_are_found_where_they_stand() -> None:
    for item in compose_captions(CLASSES, 40):
        spans, rejects = noun_spans(item, NounFinder(open_tagger()))
        assert not rejects
        assert [span.noun for span in spans] == list(item.nouns or ())


def test_articles_are_as_english_has_them() -> None:
    text = " | ".join(item.text for item in compose_captions(CLASSES, 60))
    assert re.search(r"\ban owl\b", text)
    assert re.search(r"\ban old owl\b", text)
    assert not re.search(r"\ba owl|\ban cat|\ba (\w+ )?(grass|scissors)", text)


def test_the_seed_decides() -> None:
    texts = [[item.text for item in compose_captions(CLASSES, 20, seed)] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_more_than_the_patterns_give_is_refused() -> None:
    with pytest.raises(CaptionsError, match="captions about 'cat' are more than the patterns give"):
        list(compose_captions((ClassName("cat"),), 5000))
