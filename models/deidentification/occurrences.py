"""The data that detectors take and return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Tier = Literal["sure", "unsure"]
Kind = Literal["person", "organisation", "place"]

LABELS = {
    "PERSON": "a person's or a pet's name, or a nickname",
    "PLACE": "a settlement, suburb, landmark or venue",
    "ORGANISATION": "a service, employer, school, club, ward",
    "ADDRESS": "a street, with or without a number",
    "DATE": "a date or a year",
    "AGE": "a person's age in years",
    "PHONE": "a telephone number",
    "ID": "any other number or code; the rule says which kind",
    "EMAIL": "an e-mail address",
    "WEB": "a web address",
    "HANDLE": "a name on social media",
}
LABEL_OF_KIND: dict[Kind, str] = {
    "person": "PERSON",
    "organisation": "ORGANISATION",
    "place": "PLACE",
}


@dataclass(frozen=True)
class SpokenSegment:
    """`word_ends`: where each word ends in the text, in characters; empty if unknown."""

    id: str
    speaker: str | None
    text: str
    word_ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class KnownEntity:
    """One row of the study's roster. `id` is what an occurrence's `entity` refers to."""

    id: str
    kind: Kind
    name: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Occurrence:
    """An identifying span of one segment's text: characters [start, end), in Unicode code points.

    `words` is the range [first, last) of the segment's words, None if they are unknown. `entity` is
    the id of a `KnownEntity`, or an id such as `person-1` that the same name shares within the
    transcript, or None.
    """

    segment: int
    segment_id: str
    start: int
    end: int
    words: tuple[int, int] | None
    label: str
    score: float  # 0 to 1; orders the occurrences, and is not a probability
    tier: Tier
    rule: str
    entity: str | None = None


@dataclass(frozen=True)
class Flag:
    """A phrase that may identify a person in combination with others. `cue` is its kind."""

    segment: int
    segment_id: str
    start: int
    end: int
    cue: str


@dataclass(frozen=True)
class Findings:
    """`notes` are sentences that tell the reader how complete the occurrences are."""

    occurrences: tuple[Occurrence, ...]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """A candidate in one text: characters [start, end)."""

    start: int
    end: int
    label: str
    score: float
    tier: Tier
    rule: str
    entity: str | None = None


class Detector(Protocol):
    """An optional second detector, such as a named-entity model. It must not use the network."""

    name: str
    finds_names: bool  # of people, places and organisations, without a list of them

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the candidates in each text."""
        ...
