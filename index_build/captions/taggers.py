"""Part-of-speech taggers by name: the libraries that nouns can be found with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from freeda.errors import CaptionsError, ConfigError

__all__ = ["DEFAULT_TAGGER", "TaggedWord", "Tagger", "check_tagger", "open_tagger"]

DEFAULT_TAGGER = "pattern"
_GRUUT_LENGTH = 1_000
"""Characters of a text that gruut is given: it takes 17 ms per number or unknown word."""
_FORMS = "pattern, gruut, or spacy:MODEL"

TaggedWord = tuple[str, str]
"""A word as the text spells it, and its Penn Treebank tag."""


@dataclass(frozen=True)
class Tagger:
    """A part-of-speech tagger of English.

    name: as `open_tagger` takes it.
    versions: of the packages that decide its tags.
    model: name, version and digest of the model that is loaded; empty where the package is the model.
    tag: from a text to its words, in order. Raises `CaptionsError` for a text that is too long.
    """

    name: str
    versions: Mapping[str, str]
    model: str
    tag: Callable[[str], list[TaggedWord]]

    def identity(self) -> dict[str, Any]:
        """What tells two taggers apart, as plain data."""
        return {"tagger": self.name, "versions": dict(self.versions), "model": self.model}


def check_tagger(name: str) -> None:
    """Raises `ConfigError` for a tagger that is unknown or not installed. Imports nothing."""
    library, _, model = name.partition(":")
    if library not in _OPENERS or (library == "spacy") != bool(model):
        raise ConfigError(f"tagger '{name}' is unknown; expected {_FORMS}")
    packages = {"pattern": (), "gruut": ("gruut", "gruut_lang_en"), "spacy": ("spacy",)}[library]
    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(
                f"tagger '{name}' needs the package {package.replace('_', '-')}: "
                f"pip install 'freeda[{library}]'"
            )


def open_tagger(name: str = DEFAULT_TAGGER) -> Tagger:
    """A tagger by name.

    `pattern`: textblob's, with its lexicon inside the package.
    `gruut`: gruut's conditional random field, many times slower; texts of up to 1,000 characters.
    `spacy:MODEL`: an installed spaCy model package, such as `spacy:en_core_web_sm`. Folders are not taken:
    `freeda index append` uses the tagger that an index names, and an index must not choose what is loaded.
    Raises `ConfigError`.
    """
    check_tagger(name)
    library, _, model = name.partition(":")
    return _OPENERS[library](model)


def _open_pattern(_: str) -> Tagger:
    from textblob.taggers import PatternTagger

    tagger = PatternTagger()
    return Tagger("pattern", {"textblob": _minor("textblob")}, "", lambda text: list(tagger.tag(text)))


def _open_gruut(_: str) -> Tagger:
    import gruut

    def tag(text: str) -> list[TaggedWord]:
        if len(text) > _GRUUT_LENGTH:
            raise CaptionsError(f"longer than the {_GRUUT_LENGTH:,} characters that gruut is given")
        sentences = gruut.sentences(
            text.replace("’", "'"),  # as gruut spells it
            lang="en-us",
            phonemes=False,
            detect_numbers=False,
            detect_currency=False,
            detect_dates=False,
            detect_times=False,
        )
        words = ((word.text, word.pos or ".") for some in sentences for word in some)
        return _with_hyphens(text, _without_possessives(words))

    versions = {"gruut": _minor("gruut"), "gruut-lang-en": _minor("gruut-lang-en")}
    return Tagger("gruut", versions, "", tag)


def _open_spacy(model: str) -> Tagger:
    import spacy

    installed = sorted(spacy.util.get_installed_models())
    if model not in installed:
        raise ConfigError(
            f"spaCy model '{model}' is not installed (installed: {', '.join(installed) or 'none'}); "
            f"python -m spacy download {model}"
        )
    loaded = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
    if loaded.lang != "en" or "tagger" not in loaded.pipe_names:
        raise ConfigError(
            f"spaCy model '{model}' has language '{loaded.lang}' and parts "
            f"{', '.join(loaded.pipe_names) or 'none'}; expected an English one with a tagger"
        )

    def tag(text: str) -> list[TaggedWord]:
        return _with_hyphens(text, ((word.text, word.tag_) for word in loaded(text) if word.tag_ != "HYPH"))

    known = f"{loaded.meta['name']} {loaded.meta['version']} {_digest(loaded.path)}"
    return Tagger(f"spacy:{model}", {"spacy": _minor("spacy")}, known, tag)


_OPENERS: dict[str, Callable[[str], Tagger]] = {
    "pattern": _open_pattern,
    "gruut": _open_gruut,
    "spacy": _open_spacy,
}


def _without_possessives(tagged: Iterable[TaggedWord]) -> Iterator[TaggedWord]:
    """The possessive ending as a word of its own, as the other taggers have it."""
    for word, tag in tagged:
        if word.endswith("'s") and tag.startswith("NN"):
            yield word[:-2], tag
            yield "'s", "POS"
        else:
            yield word, tag


def _with_hyphens(text: str, tagged: Iterable[TaggedWord]) -> list[TaggedWord]:
    """Words that the text joins by hyphens as one, tagged as an adjective as textblob does."""
    words: list[TaggedWord] = []
    end = 0
    for word, tag in tagged:
        start = text.find(word, end)
        if words and start == end + 1 and text[end] == "-":
            words[-1] = (f"{words[-1][0]}-{word}", "JJ")
        else:
            words.append((word, tag))
        end = start + len(word) if start >= 0 else end
    return words


def _minor(package: str) -> str:
    """Major and minor version; patch releases change no tags."""
    return ".".join(version(package).split(".")[:2])


def _digest(folder: Path) -> str:
    """12 hex digits of all files of a model's folder, by name and content."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            found.update(path.relative_to(folder).as_posix().encode() + b"\0")
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]
