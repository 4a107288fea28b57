"""The nouns of a caption and where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import inflect

from freeda.class_lists import VOCABULARIES, class_list
from freeda.errors import CaptionsError
from freeda.records import Caption, NounSpan, Reject
from index_build.captions.taggers import TaggedWord, Tagger

__all__ = [
    "NOT_IN_CAPTION",
    "NOUN_TOO_LONG",
    "NO_NOUNS",
    "UNTAGGED",
    "TAGGING",
    "FindNouns",
    "NounFinder",
    "noun_spans",
    "singular",
    "tagging_identity",
]

NO_NOUNS, NOT_IN_CAPTION = "no nouns", "noun not in caption"
UNTAGGED = "nouns cannot be tagged"
"""Prefix of the reason of a caption that the tagger fails on."""
_MAX_NOUN = 100
NOUN_TOO_LONG = f"noun longer than {_MAX_NOUN} characters"

TAGGING = 5
"""Version of the rules by which nouns are found. It grows with every change that finds other nouns, or that
cuts captions into shards by them differently, so that builds with different ones do not mix.
"""

FindNouns = Callable[[str], list[NounSpan]]
"""From a text to its nouns, in order, each once."""

_MORE_COMPOUNDS = (
    "remote control",
    "stuffed animal",
    "polar bear",
    "grizzly bear",
    "wild boar",
    "french fry",
    "sweet potato",
    "baked potato",
    "bald eagle",
    "high chair",
    "frying pan",
    "living room",
)
"""Names of things whose first word a tagger does not take for a noun, beside those in the class lists."""


@lru_cache(maxsize=1)
def _compounds() -> frozenset[tuple[str, str]]:
    """Neighbouring words of the benchmarks' class names: "hot dog", "potted plant"."""
    names = [name for known in VOCABULARIES for item in class_list(known) for name in item.names]
    words = (name.lower().split() for name in (*names, *_MORE_COMPOUNDS))
    return frozenset(pair for some in words if _NOT_IN_COMPOUNDS.isdisjoint(some) for pair in pairwise(some))


_NOT_IN_COMPOUNDS = frozenset(("a", "an", "and", "for", "in", "of", "on", "the", "with"))
"""A class name with one of these is a phrase: "wall of a building", "chest of drawers"."""


_NOT_THINGS = frozenset(
    """
    photo photograph picture image view shot closeup front back top bottom side left right middle
    center end group couple bunch lot lots pair number kind type piece variety set way day time
    background foreground art video game
    """.split()  # noqa: SIM905 - a list of words reads as one
)
"""Nouns about the picture or its layout, which are nothing that a picture shows."""


_ALSO_NOUNS = frozenset(
    """
    awning bear blind blossom can drum fly key monitor moped net orange ram remote saw sink swallow swing
    watch
    """.split()  # noqa: SIM905
)
"""Names of things that textblob's lexicon has as adjectives or verbs only; most are classes of the
data sets that `freeda evaluate` reads.
"""


def tagging_identity(tagger: Tagger) -> dict[str, Any]:
    """How nouns are found, as plain data: the version of the rules, and the tagger's identity."""
    return {"rules": TAGGING, **tagger.identity()}


class NounFinder:
    """The nouns among a tagger's words.

    Taggers take some things for adjectives or verbs ("key", "sink"); such a word is a noun where a noun is
    expected. Neighbouring nouns are one noun ("fire truck"), as known compounds are ("hot dog"). Plurals are
    given in the singular.
    """

    def __init__(self, tagger: Tagger) -> None:
        self._tag = tagger.tag

    def __call__(self, text: str) -> list[NounSpan]:
        words = _retagged(list(_located(text, self._parts(self._tag(text)))))
        spans: dict[str, NounSpan] = {}
        for group in _noun_groups(text, words):
            span = _to_span(group)
            if span.noun not in _NOT_THINGS:
                spans.setdefault(span.noun, span)
        return list(spans.values())

    def _parts(self, tagged: Sequence[TaggedWord]) -> Iterator[TaggedWord]:
        """The words, "dog/cat" as two; one with a hyphen has the tag of its last part where that is a
        noun.
        """
        for number, (word, tag) in enumerate(tagged):
            parts = word.split("/")
            if len(parts) > 1 and tag.startswith("NN") and all(map(str.isalpha, parts)):
                yield from ((part, tag) for part in parts)
            elif "-" in word and tag == "JJ" and not _precedes_noun(tagged, number):
                last = self._tag(word.rpartition("-")[2])
                yield word, last[0][1] if last and last[0][1] in ("NN", "NNS") else tag
            else:
                yield word, tag


def _precedes_noun(tagged: Sequence[TaggedWord], number: int) -> bool:
    """Whether a word describes the next: "a full-length mirror"."""
    return number + 1 < len(tagged) and tagged[number + 1][1].startswith(("NN", "JJ"))


_Word = tuple[str, str, int]
"""A word, its part-of-speech tag, and where it starts."""


def noun_spans(caption: Caption, find_nouns: FindNouns) -> tuple[list[NounSpan], list[Reject]]:
    """The caption's nouns: those given with it, or those the tagger finds; and why some are missing."""
    if caption.nouns is None:
        return _tagged_spans(caption, find_nouns)
    spans, missing = [], []
    for noun in dict.fromkeys(" ".join(str(noun).lower().split()) for noun in caption.nouns):
        if len(noun) > _MAX_NOUN:
            missing.append(_missing(caption, f"{noun[:_MAX_NOUN]}...", NOUN_TOO_LONG))
            continue
        span = _locate_given(caption.text, noun)
        if span is None:
            missing.append(_missing(caption, noun, NOT_IN_CAPTION))
        else:
            spans.append(span)
    if not caption.nouns:
        missing.append(_missing(caption, "", NO_NOUNS))
    return spans, missing


def _tagged_spans(caption: Caption, find_nouns: FindNouns) -> tuple[list[NounSpan], list[Reject]]:
    try:
        spans = find_nouns(caption.text)
    except MemoryError:
        raise
    except CaptionsError as error:
        return [], [_missing(caption, "", f"{UNTAGGED}: {error}")]
    except (
        Exception
    ) as error:  # the tagger's libraries fail on some texts; the others are tagged all the same
        return [], [_missing(caption, "", f"{UNTAGGED} ({type(error).__name__})")]
    return spans, [] if spans else [_missing(caption, "", NO_NOUNS)]


def _missing(caption: Caption, noun: str, reason: str) -> Reject:
    return Reject(caption_id=caption.id, caption=caption.text, noun=noun, reason=reason)


def _located(text: str, tagged: Iterable[TaggedWord]) -> Iterator[_Word]:
    """Words with their positions; what the tagger spelt differently than the text is passed over."""
    position, plain = 0, text.replace("’", "'")
    for word, tag in tagged:
        before, after = (r"(?<!\w)" if word[0].isalnum() else "", r"(?!\w)" if word[-1].isalnum() else "")
        found = re.compile(f"{before}{re.escape(word)}{after}").search(plain, position)
        if found:
            yield word, tag, found.start()
            position = found.end()


def _retagged(words: Sequence[_Word]) -> list[_Word]:
    """The words; those of `_ALSO_NOUNS` are tagged as nouns where a noun is expected."""
    return [
        (word, "NN", start)
        if word.lower() in _ALSO_NOUNS and _is_opened(words[:number]) and _is_closed(words[number + 1 :])
        else (word, tag, start)
        for number, (word, tag, start) in enumerate(words)
    ]


def _is_opened(before: Sequence[_Word]) -> bool:
    """Whether a noun may come next: "a yellow", "two", "a toilet and", "a ring,"."""
    if len(before) > 1 and before[-1][1] in ("CC", ","):
        return _is_noun(before[-2])
    described = list(before)
    while described and described[-1][1] in ("JJ", "VBN", "VBG", "RB"):
        described.pop()
    return bool(described) and described[-1][1] in ("DT", "PRP$", "CD")


def _is_closed(after: Sequence[_Word]) -> bool:
    """Whether the word before was no adjective of what follows: "an orange and white cat", "a saw mill"."""
    tags = [tag for _, tag, _ in after[:2]] + [".", "."]
    if tags[0] in ("CC", ",", "VBG"):
        return not tags[1].startswith("JJ") and not (tags[0] == "VBG" and tags[1].startswith("NN"))
    if tags[0].startswith(("NN", "JJ")):
        return after[0][0] in ("next", "full")
    return tags[0] not in ("DT", "PRP$")


def _noun_groups(text: str, words: Sequence[_Word]) -> Iterator[list[_Word]]:
    """Nouns of one word or more; a known compound is one, whatever the tag of its last word ("trash can")."""
    group: list[_Word] = []
    for word in words:
        adjacent = bool(group) and text[_end(group[-1]) : word[2]] == " "
        if adjacent and (group[-1][0].lower(), _singular(word).lower()) in _compounds():
            group = [*group, word if _is_noun(word) else (word[0], "NN", word[2])]
        elif adjacent and _is_noun(group[-1]) and _is_noun(word):
            group = [*group, word]
        else:
            yield from _as_noun(group)
            group = [word]
    yield from _as_noun(group)


def _as_noun(group: list[_Word]) -> Iterator[list[_Word]]:
    if group and _is_noun(group[-1]) and _end(group[-1]) - group[0][2] <= _MAX_NOUN:
        yield group


def _is_noun(word: _Word) -> bool:
    return word[1].startswith("NN") and len(word[0]) > 1 and word[0][0].isalpha()


def _to_span(group: Sequence[_Word]) -> NounSpan:
    names = [word[0] for word in group[:-1]] + [_singular(group[-1])]
    return NounSpan(noun=_spaced(" ".join(names).lower()), start=group[0][2], end=_end(group[-1]))


def _spaced(noun: str) -> str:
    """A noun without hyphens between whole words: "cell-phone" is "cell phone", a "t-shirt" stays."""
    return re.sub(r"(?<=\w\w)-(?=\w\w)", " ", noun)


def _end(word: _Word) -> int:
    return word[2] + len(word[0])


def _singular(word: _Word) -> str:
    """The dictionary form of a plural; words not tagged as plural stay ("bus", "glass")."""
    return singular(word[0]) if word[1] in ("NNS", "NNPS") else word[0]


@lru_cache(maxsize=1 << 16)
def singular(name: str) -> str:
    """The singular of a name taken for a plural; the name where it has none."""
    return _inflections().singular_noun(name) or name


@lru_cache(maxsize=1)
def _inflections() -> inflect.engine:
    return inflect.engine()


def _locate_given(text: str, noun: str) -> NounSpan | None:
    """The first place of a noun, or else of its plural, as whole words."""
    if not noun.strip():
        return None
    name = " ".join(noun.split())
    for form in (name, _inflections().plural_noun(name) or name):
        found = re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text, re.IGNORECASE)
        if found:
            return NounSpan(noun=name, start=found.start(), end=found.end())
    return None
