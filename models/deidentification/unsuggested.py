"""Words outside all mentions that could still identify somebody, for a person to look through."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.deidentification.anchoring import Place
from models.deidentification.lexicons import read_lexicons
from models.deidentification.numbers import REPEATS, TEENS, TENS, UNITS
from models.deidentification.occurrences import SpokenSegment
from models.deidentification.tokens import Token, tokenise

Kind = Literal["capitalised", "rare", "number"]
NUMBER_WORDS = frozenset({*UNITS, *TEENS, *TENS, *REPEATS})
LARGE_NUMBERS = frozenset({*TEENS, *TENS})  # ages and years; smaller ones are mostly amounts
SHORT_NUMBER = 3  # smaller number words in a row that are listed
RARE = (0, 4)  # bands of words: in no dictionary, or seldom used


@dataclass(frozen=True)
class Unsuggested:
    """A word that is left, as it is first spelt, and where."""

    word: str
    kind: Kind
    places: tuple[Place, ...]


def find_unsuggested(
    segments: Sequence[SpokenSegment], mentions: Iterable[Place]
) -> list[Unsuggested]:
    """List the capitalised, rare and numeric words outside the mentions, each spelling once.

    Capitalised words come first, then numbers, then rare words; of each, the rarest first, because
    names of people who are mentioned once are the easiest to miss.
    """
    lexicons = read_lexicons()
    covered: defaultdict[str, list[Place]] = defaultdict(list)
    for place in mentions:
        covered[place.segment].append(place)
    found: dict[tuple[Kind, str], list[tuple[str, Place]]] = {}
    for segment in segments:
        tokens = [
            None if _is_covered(token, covered.get(segment.id, ())) else token
            for token in tokenise(segment.text, lexicons)
        ]
        for kind, start, stop in _candidates(tokens):
            text = segment.text[start:stop]
            found.setdefault((kind, text.casefold()), []).append(
                (text, Place(segment.id, start, stop))
            )
    order = {"capitalised": 0, "number": 1, "rare": 2}
    return sorted(
        (
            Unsuggested(places[0][0], kind, tuple(place for _, place in places))
            for (kind, _), places in found.items()
        ),
        key=lambda one: (order[one.kind], len(one.places), one.word.casefold()),
    )


def _is_covered(token: Token, places: Iterable[Place]) -> bool:
    return any(place.start < token.end and token.start < place.stop for place in places)


def _candidates(tokens: Sequence[Token | None]) -> Iterator[tuple[Kind, int, int]]:
    """
    Args:
        tokens: None for those in a mention.
    """
    i = 0
    while i < len(tokens):
        token, number = tokens[i], list[Token]()
        while i < len(tokens) and (each := tokens[i]) is not None and _is_number(each):
            number.append(each)
            i += 1
        if number:
            if len(number) >= SHORT_NUMBER or any(map(_is_large, number)):
                yield "number", number[0].start, number[-1].end
            continue
        if token is not None and (kind := _kind(token)) is not None:
            yield kind, token.start, token.end
        i += 1


def _is_number(token: Token) -> bool:
    return token.lower in NUMBER_WORDS or token.text[0].isdigit()


def _is_large(token: Token) -> bool:
    return token.lower in LARGE_NUMBERS or token.text[0].isdigit()


def _kind(token: Token) -> Kind | None:
    if token.is_function_word or (len(token.lower) < 2 and token.band == 1):
        return None
    if token.is_capitalised and not (token.begins_sentence and token.band in (1, 2, 3)):
        return None if token.lower in ("i", "i'm", "i'd", "i'll", "i've") else "capitalised"
    return "rare" if token.band in RARE and len(token.lower) > 1 else None


def count_by_kind(found: Iterable[Unsuggested]) -> Mapping[Kind, int]:
    counts: dict[Kind, int] = {"capitalised": 0, "number": 0, "rare": 0}
    for one in found:
        counts[one.kind] += len(one.places)
    return counts
