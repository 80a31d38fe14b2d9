"""The residual-risk report of a release: what was replaced and what could still identify somebody.

It holds counts, rules and words that remain in the de-identified text, but no original text.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from models.deidentification import vocabulary
from models.deidentification.detect import detect
from models.deidentification.lexicons import read_lexicons
from models.deidentification.occurrences import Occurrence, SpokenSegment
from models.deidentification.redaction import Redacted, Replaced, word_ranges
from models.deidentification.replacements import OLDEST, read_age
from models.deidentification.tokens import is_cased, tokenise
from models.transcript import Transcript, Word, mean_probability

SCHEMA = "fieldscribe.risk_report/1"
CONTEXTS = {
    "team": "the study's own team",
    "member_checking": "a participant who checks their own transcript",
    "repository": "users of a data repository with controlled access",
    "publication": "readers of a publication: anybody",
}
AUDIO = {
    "none": "No masked audio had been made of this session.",
    "masked": "Masked audio had been made. It leaves out the replaced words but still carries the "
    "voices, by which people can be recognised: keep it with the identified material.",
}
WINDOW = 500  # words, in which indirect identifiers are counted together
MASK = ";"  # belongs to no word and ends no sentence
NEARBY = 5  # words on each side of a replacement
CALENDAR = vocabulary.WEEKDAYS | set(vocabulary.MONTHS)
MAX_LISTED = 60  # words
PRONOUNS = {
    "she, her, hers, herself": frozenset("she her hers herself she's she'd she'll".split()),
    "he, him, his, himself": frozenset("he him his himself he's he'd he'll".split()),
    "they, them, their, themself": frozenset(
        "they them their theirs themself themselves they're they'd they'll they've".split()
    ),
}


@dataclass(frozen=True)
class Count:
    """How many mentions of a label a rule found that ended in a state."""

    label: str
    state: str
    rule: str
    n: int


@dataclass(frozen=True)
class LeftWord:
    """A word that is still in the text, and how often."""

    text: str
    n: int


@dataclass(frozen=True)
class Sample:
    """The result of a second person's reading of some segments without seeing the mentions.

    `recall` and its interval (Wilson, 95 %): the share of the identifiers in these segments that
    had been found before; None if they had none. `is_independent`: the reader had decided on no
    mention of the transcript.
    """

    segments: int
    found: int
    missed: int
    recall: float | None
    low: float
    high: float
    is_independent: bool


@dataclass(frozen=True)
class Remaining:
    """What the rules find in the de-identified text, and what only a person can judge.

    `suggestions`: identifiers that the rules suggest there and that nobody has rejected, by label.
    `indirect`: phrases that may identify somebody in combination, by kind; `densest_indirect`: the
    most of them within 500 words. `unknown_words`: capitalised words that are in no dictionary.
    `long_numbers`: numbers of four digits or more. `confidence_nearby`: the mean probability of the
    words around replacements, Whisper's estimate. `interpolated_replacements`: those that touch a
    word that a person wrote, whose times are therefore uncertain.
    """

    words: int
    is_cased: bool
    suggestions: Mapping[str, int]
    long_numbers: int
    ages_from_90: int
    unknown_words: tuple[LeftWord, ...]
    n_unknown_words: int
    indirect: Mapping[str, int]
    densest_indirect: int
    pronouns: Mapping[str, int]
    confidence_nearby: float | None
    interpolated_replacements: int


@dataclass(frozen=True)
class RiskReport:
    """Everything that a reader needs to judge a release.

    `context`: for whom the release is made. `stages`: the de-identifiers that read the transcript.
    `replaced`: mentions by label. `entities_replaced`: people, places and organisations, of
    `entities_of_study`. `reviewers`: how many people of each role decided on mentions.
    `has_model`: a named-entity model found a mention, not only rules. `common_names_left`: names of
    the study that are common words, such as Hope or June, and that are written with a capital
    within a sentence.
    """

    study: str | None
    session: str
    release: int
    transcript_version: int
    context: str
    fieldscribe: str
    stages: tuple[str, ...]
    counts: tuple[Count, ...]
    replaced: Mapping[str, int]
    entities_replaced: int
    entities_of_study: int
    dates: str
    reviewers: Mapping[str, int]
    sample: Sample | None
    remaining: Remaining
    has_model: bool
    common_names_left: int
    audio: str
    schema: str = field(default=SCHEMA)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


IsLeft = Callable[[str, int, int], bool]
"""Whether characters [start, end) of a segment are outside all replacements."""


def examine(
    before: Transcript, redacted: Redacted, rejected: Iterable[tuple[str, int, int]] = ()
) -> Remaining:
    """Search the de-identified text for what could still identify somebody.

    Args:
        before: the transcript before it was redacted.
        rejected: mentions that a reviewer has rejected: segment, start and stop in the text before.
            They are not suggested again.
    """
    after = redacted.transcript
    replaced = _by_segment((e.segment, e.new_start, e.new_stop) for e in redacted.replaced)
    decided = _by_segment(
        (segment, redacted.move(segment, start), redacted.move(segment, stop))
        for segment, start, stop in rejected
    )
    segments = [
        SpokenSegment(segment.id, segment.speaker, _mask(segment.text, replaced.get(segment.id)))
        for segment in after.segments
    ]
    texts = {segment.id: segment.text for segment in segments}
    findings = detect(segments)

    def is_left(segment: str, start: int, end: int) -> bool:
        return not _overlaps(replaced.get(segment, ()), start, end)

    left = [
        o
        for o in findings.occurrences
        if is_left(o.segment_id, o.start, o.end)
        and not _overlaps(decided.get(o.segment_id, ()), o.start, o.end)
    ]
    flags = [flag for flag in findings.flags if is_left(flag.segment_id, flag.start, flag.end)]
    counted = _count_words(after, is_left)
    return Remaining(
        words=counted.words,
        is_cased=is_cased(" ".join(segment.text for segment in before.segments)),
        suggestions=dict(sorted(Counter(o.label for o in left).items())),
        long_numbers=counted.long_numbers,
        ages_from_90=sum(_is_high_age(o, texts) for o in left),
        unknown_words=tuple(
            LeftWord(word, n) for word, n in counted.unknown.most_common(MAX_LISTED)
        ),
        n_unknown_words=counted.unknown.total(),
        indirect=dict(sorted(Counter(flag.cue for flag in flags).items())),
        densest_indirect=_densest([flag.segment for flag in flags], after),
        pronouns={name: n for name, n in counted.pronouns.items() if n},
        confidence_nearby=_confidence_nearby(after, replaced),
        interpolated_replacements=_count_interpolated(before, redacted.replaced),
    )


def _mask(text: str, spans: Iterable[tuple[int, int]] | None) -> str:
    """Hide replacements from the rules: their capitals would make the whole text look cased."""
    for start, stop in spans or ():
        text = text[:start] + MASK * (stop - start) + text[stop:]
    return text


def _by_segment(spans: Iterable[tuple[str, int, int]]) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for segment, start, stop in spans:
        found.setdefault(segment, []).append((start, stop))
    return found


def _overlaps(spans: Iterable[tuple[int, int]], start: int, end: int) -> bool:
    return any(start < stop and begin < end for begin, stop in spans)


def _is_high_age(occurrence: Occurrence, texts: Mapping[str, str]) -> bool:
    if occurrence.label != "AGE":
        return False
    text = texts[occurrence.segment_id][occurrence.start : occurrence.end]
    return (read_age(text) or 0) >= OLDEST


@dataclass
class _Words:
    words: int = 0
    long_numbers: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    pronouns: Counter[str] = field(default_factory=Counter)


def _count_words(transcript: Transcript, is_left: IsLeft) -> _Words:
    lexicons = read_lexicons()
    counted = _Words()
    for segment in transcript.segments:
        for token in tokenise(segment.text, lexicons):
            if not is_left(segment.id, token.start, token.end):
                continue
            counted.words += 1
            lower = token.lower
            counted.long_numbers += sum(map(str.isdigit, lower)) >= 4
            for name, members in PRONOUNS.items():
                counted.pronouns[name] += lower in members
            is_name_like = lower not in CALENDAR and lower.isalpha() and len(lower) > 1
            if token.is_capitalised and not token.band and is_name_like:
                counted.unknown[token.text[: token.end - token.start]] += 1
    return counted


def _densest(segments: Sequence[int], transcript: Transcript) -> int:
    """The most flags within `WINDOW` words, to the segment."""
    lengths = [len(segment.text.split()) for segment in transcript.segments]
    begins = [0, *accumulate(lengths)]
    places = sorted(begins[i] for i in segments)
    return max(
        (sum(place <= other < place + WINDOW for other in places) for place in places), default=0
    )


def _confidence_nearby(
    after: Transcript, replaced: Mapping[str, Sequence[tuple[int, int]]]
) -> float | None:
    nearby: list[Word] = []
    for segment in after.segments:
        if spans := replaced.get(segment.id):
            touched = {i for i, span in enumerate(word_ranges(segment)) if _overlaps(spans, *span)}
            near = {j for i in touched for j in range(i - NEARBY, i + NEARBY + 1)} - touched
            nearby += [word for i, word in enumerate(segment.words) if i in near]
    mean = mean_probability(nearby)
    return None if mean is None else round(mean, 3)


def _count_interpolated(before: Transcript, replaced: Iterable[Replaced]) -> int:
    """The number of replacements that touch a word that a person wrote."""
    spans = _by_segment((each.segment, each.start, each.stop) for each in replaced)
    n = 0
    for segment in before.segments:
        if segment.id in spans and any(word.placed for word in segment.words):
            placed = [
                span
                for word, span in zip(segment.words, word_ranges(segment), strict=True)
                if word.placed
            ]
            n += sum(_overlaps(placed, *span) for span in spans[segment.id])
    return n
