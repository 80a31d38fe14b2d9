"""Measures of the de-identifier: passages with their identifiers in, recall and precision out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.deidentification.detect import detect
from models.deidentification.occurrences import Detector, KnownEntity, Occurrence, SpokenSegment
from models.deidentification.reading import parse_entity_roster

PASSAGES = Path(__file__).parent / "deid_passages"
MARK = re.compile(r"\[\[(.+?)\|([A-Z?]+)(\|roster)?\]\]")
CONTENT = re.compile(r"[^\W_]+")
NOT_NEEDED = frozenset(("the", "of", "and"))  # an identifier is found without them


@dataclass(frozen=True)
class Gold:
    """A reference identifier: characters [start, end) of its passage. Label `?` is not counted."""

    start: int
    end: int
    label: str
    on_roster: bool = False
    entity: str = ""
    as_spelt: bool = False


@dataclass(frozen=True)
class Passage:
    text: str
    gold: tuple[Gold, ...]

    def lowered(self) -> "Passage":
        return Passage(self.text.lower(), self.gold)


def read_passages(path: Path) -> list[Passage]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [parse_passage(line) for line in lines if line and not line.startswith("#")]


def parse_passage(line: str) -> Passage:
    text = ""
    gold = []
    end = 0
    for match in MARK.finditer(line):
        text += line[end : match.start()]
        gold.append(
            Gold(len(text), len(text) + len(match[1]), match[2], on_roster=match[3] is not None)
        )
        text += match[1]
        end = match.end()
    return Passage(text + line[end:], tuple(gold))


def read_roster_file(path: Path) -> list[KnownEntity]:
    return parse_entity_roster(path.read_text(encoding="utf-8"))


@dataclass
class Score:
    """Counts over passages; `found` and `gold` by label."""

    gold: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    n_words: int = 0
    n_characters: int = 0
    false_by_passage: list[int] = field(default_factory=list)
    words_by_passage: list[int] = field(default_factory=list)
    n_spans: int = 0
    n_false: int = 0
    n_redacted: int = 0
    n_redacted_needlessly: int = 0
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    leaked_entities: set[str] = field(default_factory=set)
    entities: set[str] = field(default_factory=set)

    @property
    def recall(self) -> float:
        return sum(self.found.values()) / max(1, sum(self.gold.values()))

    @property
    def precision(self) -> float:
        return 1 - self.n_false / max(1, self.n_spans)

    @property
    def false_per_1000(self) -> float:
        return 1000 * self.n_false / max(1, self.n_words)


def score_passages(
    passages: Sequence[Passage], found: Sequence[Sequence[Occurrence]], *, sure_only: bool
) -> Score:
    """An identifier is found when every word of it but the, of, and is inside occurrences."""
    score = Score()
    for passage, occurrences in zip(passages, found, strict=True):
        spans = [o for o in occurrences if not sure_only or o.tier == "sure"]
        covered = {c for span in spans for c in range(span.start, span.end)}
        score.n_words += len(passage.text.split())
        score.words_by_passage.append(len(passage.text.split()))
        score.n_characters += len(passage.text)
        n_false_before = score.n_false
        score.n_spans += len(spans)
        for gold in passage.gold:
            if gold.label == "?":
                continue
            keys = [gold.label, "on the roster" if gold.on_roster else "not on the roster"]
            surface = passage.text[gold.start : gold.end]
            entity = gold.entity or surface.lower()
            score.entities.add(entity)
            score.gold[gold.label] += 1
            needed = {
                gold.start + match.start() + k
                for match in CONTENT.finditer(surface)
                if match[0].lower() not in NOT_NEEDED and match[0].lower() != "s"
                for k in range(len(match[0]))
            }
            if needed <= covered:
                score.found[gold.label] += 1
            else:
                score.missed.append(
                    f"{keys[0]} {surface!r} in {_around(passage.text, gold.start, gold.end)}"
                )
                score.leaked_entities.add(entity)
        for span in spans:
            score.n_redacted += span.end - span.start
            if not any(span.start < gold.end and gold.start < span.end for gold in passage.gold):
                score.n_false += 1
                score.n_redacted_needlessly += span.end - span.start
                score.false.append(
                    f"{span.label} {passage.text[span.start : span.end]!r}"
                    f" ({span.rule}, {span.tier})"
                    f" in {_around(passage.text, span.start, span.end)}"
                )
        score.false_by_passage.append(score.n_false - n_false_before)
    return score


def _around(text: str, start: int, end: int) -> str:
    return text[max(0, start - 30) : end + 20]


def run_detector(
    passages: Sequence[Passage], roster: Sequence[KnownEntity], detectors: Sequence[Detector] = ()
) -> list[tuple[Occurrence, ...]]:
    """Each passage as a transcript of its own."""
    return [
        detect([SpokenSegment("1", "SPEAKER_00", passage.text)], roster, detectors).occurrences
        for passage in passages
    ]
