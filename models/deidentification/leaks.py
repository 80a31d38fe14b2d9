"""Searches a finished text for names of the study: a last check, which knows no context.

It is stricter and simpler than the detectors: a name counts wherever it is written out.
"""

import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.deidentification.lexicons import read_lexicons
from models.deidentification.tokens import SENTENCE_END

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
ENDING = re.compile(r"['’](?:s|ll|d|ve|re)$", re.IGNORECASE)  # Sam's, Sam'll, Sam'd

PLURALS = ("s", "es")  # the Gallaghers
# Scripts that write no spaces between words: a name there is found wherever its characters are.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

E = TypeVar("E", bound=Hashable)


@dataclass(frozen=True)
class Leak(Generic[E]):
    """Characters [start, stop) with a name of an entity. `name`: which, folded.

    `is_doubtful`: the name is a common word, such as Hope or June, so it may mean something else.
    """

    entity: E
    name: str
    start: int
    stop: int
    is_doubtful: bool


@dataclass(frozen=True)
class _Name(Generic[E]):
    entity: E
    words: tuple[str, ...]  # folded
    written: tuple[str, ...]
    is_common: bool  # every word is in the dictionary


class NameSearch(Generic[E]):
    """Finds names of entities, in any case, with or without accents, and their plurals.

    A name of common words is found only as it is written.

    Args:
        names: the names and aliases of each entity.
    """

    def __init__(self, names: Mapping[E, Iterable[str]]) -> None:
        band = read_lexicons().band
        self._band = band
        self._by_first: dict[str, list[_Name[E]]] = {}
        self._unspaced: list[tuple[E, str]] = []
        for entity, surfaces in names.items():
            for surface in dict.fromkeys(surfaces):
                composed = unicodedata.normalize("NFC", surface)
                if UNSPACED.search(composed) and len(composed) > 1:
                    self._unspaced.append((entity, composed))
                    continue
                written = tuple(ENDING.sub("", word) for word in WORD.findall(composed))
                words = tuple(map(_fold, written))
                if words and any(len(word) > 1 for word in words):
                    is_common = all(band.get(word, 0) for word in words)
                    for form in self._forms(words, is_common):
                        name = _Name(entity, form, written, is_common)
                        self._by_first.setdefault(form[0], []).append(name)

    def _forms(self, words: tuple[str, ...], is_common: bool) -> Iterator[tuple[str, ...]]:
        """The name and its plurals, without those that are words of their own."""
        yield words
        plurals = [words[-1] + ending for ending in PLURALS if not is_common]
        yield from ((*words[:-1], plural) for plural in plurals if not self._band.get(plural, 0))

    def find(self, text: str) -> list[Leak[E]]:
        """Return every place that spells out a name, in the order of the text.

        Places count characters of the text in Unicode's composed form (NFC), as exports have it.
        """
        text = unicodedata.normalize("NFC", text)
        matches = list(WORD.finditer(text))
        written = [ENDING.sub("", match[0]) for match in matches]
        words = [_fold(word) for word in written]
        found = []
        for i, word in enumerate(words):
            for name in self._by_first.get(word, ()):
                last = i + len(name.words) - 1
                if tuple(words[i : last + 1]) != name.words:
                    continue
                start = matches[i].start()
                if name.is_common and not _is_as_written(name, written[i : last + 1]):
                    continue
                is_single = len(name.words) == 1
                if name.is_common and is_single and _begins_sentence(text, start):
                    continue
                stop = matches[last].start() + len(written[last])
                folded = " ".join(name.words)
                found.append(Leak(name.entity, folded, start, stop, name.is_common and is_single))
        for entity, surface in self._unspaced:
            for match in re.finditer(re.escape(surface), text):
                found.append(Leak(entity, surface, *match.span(), is_doubtful=False))
        return sorted(found, key=lambda leak: leak.start)


def _fold(word: str) -> str:
    """The word in small letters without accents: people write Zoe for Zoë."""
    decomposed = unicodedata.normalize("NFKD", word.casefold().replace("’", "'"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _is_as_written(name: _Name[E], words: list[str]) -> bool:
    """Whether the case is that of the name, except perhaps of its first letter."""
    first, *others = name.written
    return (
        words[0][1:] == first[1:]
        and (len(name.words) > 1 or words[0][0] == first[0])
        and words[1:] == others
    )


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'“‘(")
    return not before or SENTENCE_END.match(before[-1]) is not None
