"""Mentions: the identifying spans of a transcript, united over de-identifiers.

Only ids, offsets, labels and codes go into the database. Free text from a de-identifier could be a
name, so that its rules and hints are stored only if they look like codes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any
from uuid import UUID

from models.deidentification.anchoring import Place
from models.deidentification.occurrences import LABELS
from service.database.tables import Mention

RULE = re.compile(r"[a-z][a-z0-9_]*(?:[+.:/-][A-Za-z0-9_]+)*")
HINT = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")
OTHER = "OTHER"
MORE_LABELS = {
    "PER": "PERSON",
    "PATIENT": "PERSON",
    "GPE": "PLACE",
    "LOC": "PLACE",
    "LOCATION": "PLACE",
    "FAC": "PLACE",
    "ORG": "ORGANISATION",
    "ORGANIZATION": "ORGANISATION",
    "STREET_ADDRESS": "ADDRESS",
    "DATE_TIME": "DATE",
    "PHONE_NUMBER": "PHONE",
    "EMAIL_ADDRESS": "EMAIL",
    "URL": "WEB",
}
"""Labels of well-known detectors, and ours for the same."""
MAX_VOTES = 50  # of a mention
NAME_LABELS = ("PERSON", "PLACE", "ORGANISATION")
KIND_OF_LABEL = {"PERSON": "person", "PLACE": "place", "ORGANISATION": "organisation"}


@dataclass(frozen=True)
class Candidate:
    """A proposed mention. `votes`: by each detector that found it."""

    place: Place
    label: str
    tier: str | None
    score: float | None
    votes: tuple[Mapping[str, Any], ...]
    hint: str | None = None
    entity_id: UUID | None = None
    origin: str = "detector"

    @property
    def strength(self) -> tuple[bool, float, int]:
        """Which of two overlapping candidates says what the span is."""
        return self.tier == "sure", self.score or 0.0, self.place.stop - self.place.start


def read_label(label: str) -> str:
    """One of our labels; `OTHER` for unknown ones."""
    return label if label in LABELS else MORE_LABELS.get(label, OTHER)


def read_rule(rule: str | None) -> str | None:
    return rule if rule is None or (len(rule) <= 100 and RULE.fullmatch(rule)) else "other"


@dataclass
class HintReader:
    """Translates a de-identifier's hints to those of the transcript.

    Two de-identifiers may both call somebody `person-1`, and mean two people. Where they found the
    same span, they mean the same one. Hints that could be names are numbered.

    Args:
        entities: ids of the study's entities, by which a hint may name one.
        taken: hints that mentions of the transcript have.
    """

    entities: Mapping[UUID, UUID]
    taken: set[str]
    _known: dict[str, str] = field(default_factory=dict)

    def read(
        self, text: str | None, label: str, same: str | None
    ) -> tuple[UUID | None, str | None]:
        """Return the entity, if the hint is the id of one, else the hint.

        Args:
            same: the hint of a mention at the same place.
        """
        if text is None:
            return None, same
        if (entity_id := _entity_id(text)) in self.entities:
            return self.entities[entity_id], same
        if text not in self._known:
            if same is not None:
                self._known[text] = same
            elif HINT.fullmatch(text) and text not in self.taken:
                self._known[text] = text
            else:
                self._known[text] = self._free(label.lower().replace("_", ""))
            self.taken.add(self._known[text])
        return None, self._known[text]

    def _free(self, word: str) -> str:
        number = 1
        while f"{word[:20]}-{number}" in self.taken:
            number += 1
        return f"{word[:20]}-{number}"


def _entity_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return UUID(int=0)


def unite(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Join overlapping candidates, so that each character is in at most one."""
    united: list[Candidate] = []
    for one in sorted(candidates, key=lambda each: each.place):
        last = united[-1] if united else None
        if last and last.place.segment == one.place.segment and one.place.start < last.place.stop:
            united[-1] = _join(last, one)
        else:
            united.append(one)
    return united


def _join(a: Candidate, b: Candidate) -> Candidate:
    strong, weak = (a, b) if a.strength >= b.strength else (b, a)
    place = Place(
        a.place.segment, min(a.place.start, b.place.start), max(a.place.stop, b.place.stop)
    )
    return replace(
        strong,
        place=place,
        votes=merge_votes(a.votes, b.votes),
        hint=strong.hint or weak.hint,
        entity_id=strong.entity_id or weak.entity_id,
    )


def merge_votes(
    votes: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """One vote for each rule of a stage, the surest."""
    merged: dict[tuple[str, str | None], Mapping[str, Any]] = {}
    for vote in (*votes, *more):
        key = vote["stage"], vote["rule"]
        if key not in merged or _sureness(vote) > _sureness(merged[key]):
            merged[key] = vote
    return tuple(merged.values())[:MAX_VOTES]


def _sureness(vote: Mapping[str, Any]) -> tuple[bool, float]:
    return vote["tier"] == "sure", vote["score"] or 0.0


class MentionIndex:
    """The mentions of a transcript by place; they may overlap."""

    def __init__(self, mentions: Iterable[Mention]) -> None:
        by_segment: dict[str, list[Mention]] = {}
        for mention in mentions:
            by_segment.setdefault(mention.segment, []).append(mention)
        self._segments = {
            segment: _Lane(sorted(each, key=lambda one: (one.start, one.stop)))
            for segment, each in by_segment.items()
        }

    def overlapping(self, place: Place) -> list[Mention]:
        lane = self._segments.get(place.segment)
        return list(lane.overlapping(place.start, place.stop)) if lane else []


class _Lane:
    def __init__(self, mentions: Sequence[Mention]) -> None:
        self._mentions = mentions
        self._starts = [mention.start for mention in mentions]
        self._furthest = list(accumulate((mention.stop for mention in mentions), max))

    def overlapping(self, start: int, stop: int) -> Iterator[Mention]:
        i = bisect_left(self._starts, stop) - 1
        while i >= 0 and self._furthest[i] > start:
            if self._mentions[i].stop > start:
                yield self._mentions[i]
            i -= 1


def place_of(mention: Mention) -> Place:
    return Place(mention.segment, mention.start, mention.stop)


def covers(mention: Mention, place: Place) -> bool:
    return mention.start <= place.start and place.stop <= mention.stop


def candidate_of(mention: Mention) -> Candidate:
    return Candidate(
        place_of(mention),
        mention.label,
        mention.tier,
        mention.score,
        tuple(mention.votes),
        mention.hint,
        mention.entity_id,
        mention.origin,
    )
