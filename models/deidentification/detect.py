"""Runs all detectors: segments and a roster in, occurrences, flags and notes out."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from models.deidentification import vocabulary
from models.deidentification.contacts import (
    find_boxes,
    find_contacts,
    find_spelled,
    find_streets,
)
from models.deidentification.dates import find_ages, find_dates
from models.deidentification.flags import find_flags
from models.deidentification.known_names import KnownNames
from models.deidentification.lexicons import Lexicons, read_lexicons
from models.deidentification.names import NOBODY, NOBODY_WORDS, find_names, find_wards
from models.deidentification.numbers import find_numbers
from models.deidentification.occurrences import (
    Detector,
    Findings,
    Flag,
    KnownEntity,
    Occurrence,
    Span,
    SpokenSegment,
    Tier,
)
from models.deidentification.tokens import Token, is_cased, restore_capitals, tokenise

NAME_LABELS = ("PERSON", "PLACE", "ORGANISATION")
BACK_CHANNEL_WORDS = 3  # of another speaker between two halves of a name
SHORT_RUN = (
    80  # letters; for shorter texts, the whole transcript decides whether there are capitals
)
UNCASED_SCORE = 0.5  # names in text without capitals are never sure

REDUCED = (
    "Reduced assistance: no named-entity model is installed, so more names are missed. Run"
    " `fieldscribe models fetch en_core_web_sm`."
)
UNCASED = (
    "The transcript has no capitals, so many names are missed and no name is sure: read all of it."
)


@dataclass(frozen=True)
class _Run:
    """Consecutive segments of one speaker as one text. `starts[i]` is where segment i begins."""

    text: str
    segments: tuple[int, ...]
    starts: tuple[int, ...]


def detect(
    segments: Sequence[SpokenSegment],
    roster: Sequence[KnownEntity] = (),
    detectors: Sequence[Detector] = (),
) -> Findings:
    """Find the identifying spans of a transcript.

    Args:
        detectors: named-entity models; a name that a rule and a model agree on is sure.
    """
    lexicons = read_lexicons()
    known = KnownNames(roster, lexicons)
    runs = build_runs(segments)
    transcript_cased = is_cased(" ".join(segment.text for segment in segments))
    cased = [
        is_cased(run.text) if sum(map(str.isalpha, run.text)) >= SHORT_RUN else transcript_cased
        for run in runs
    ]
    tokens = [
        tokenise(run.text, lexicons) if is_run_cased else uncased_tokens(run.text, lexicons, known)
        for run, is_run_cased in zip(runs, cased, strict=True)
    ]
    by_run = [
        find_by_rules(run.text, run_tokens, lexicons, known, cased=is_run_cased)
        for run, run_tokens, is_run_cased in zip(runs, tokens, cased, strict=True)
    ]
    texts = [
        run.text if is_run_cased else with_capitals(run.text, run_tokens)
        for run, run_tokens, is_run_cased in zip(runs, tokens, cased, strict=True)
    ]
    for detector in detectors:
        for i, suggested in enumerate(detector.find(texts)):
            by_run[i] = combine(by_run[i], suggested, tokens[i])
    by_run = repeat_names(by_run, tokens, lexicons)
    by_run = [
        spans if is_run_cased else [lower_promise(span) for span in spans]
        for spans, is_run_cased in zip(by_run, cased, strict=True)
    ]
    has_model = any(detector.finds_names for detector in detectors)
    notes = [*([] if has_model else [REDUCED]), *([] if all(cased) else [UNCASED])]
    return Findings(
        occurrences=tuple(to_occurrences(segments, runs, by_run)),
        flags=tuple(
            Flag(i, segment.id, start, end, cue)
            for i, segment in enumerate(segments)
            for start, end, cue in find_flags(segment.text)
        ),
        notes=tuple(notes),
    )


def build_runs(segments: Sequence[SpokenSegment]) -> list[_Run]:
    """Join a speaker's segments, so that a name split over two segments is found.

    Segments are joined if they follow each other, or if only another speaker's back-channel and no
    end of a sentence lies between them. The end of a segment does not end a sentence.
    """
    groups: list[list[int]] = []
    last_of: dict[str | None, int] = {}  # speaker: index of the group of the last segment
    for i, segment in enumerate(segments):
        group = last_of.get(segment.speaker)
        if group is not None and _continues(segments, groups[group][-1], i):
            groups[group].append(i)
        else:
            groups.append([i])
            last_of[segment.speaker] = len(groups) - 1
    runs = []
    for members in groups:
        text = ""
        starts = []
        for i in members:
            if text:
                text += " "
            starts.append(len(text))
            text += segments[i].text
        runs.append(_Run(text, tuple(members), tuple(starts)))
    return runs


def _continues(segments: Sequence[SpokenSegment], before: int, i: int) -> bool:
    if before == i - 1:
        return i % 200 != 0  # bounds the length of a text
    between = segments[before + 1 : i]
    unfinished = segments[before].text.rstrip()[-1:] not in (".", "?", "!", "…")
    return unfinished and len(between) == 1 and len(between[0].text.split()) <= BACK_CHANNEL_WORDS


def uncased_tokens(text: str, lexicons: Lexicons, known: KnownNames) -> list[Token]:
    return restore_capitals(tokenise(text.lower(), lexicons), lexicons, known.words)


def with_capitals(text: str, tokens: Sequence[Token]) -> str:
    """The text in lower case with the guessed capitals, for a model that needs them."""
    characters = list(text.lower() if len(text.lower()) == len(text) else text)
    for token in tokens:
        if token.is_capitalised:
            characters[token.start] = characters[token.start].upper()
    return "".join(characters)


def find_by_rules(
    text: str, tokens: Sequence[Token], lexicons: Lexicons, known: KnownNames, *, cased: bool
) -> list[Span]:
    """Spans of one text, in order and without overlaps."""
    patterns = resolve(
        [
            *find_contacts(tokens, text),
            *find_streets(tokens),
            *find_boxes(tokens, text),
            *find_spelled(tokens, lexicons),
            *find_dates(tokens, text),
            *find_ages(tokens),
            *find_numbers(tokens, text),
            *find_wards(tokens),
        ]
    )
    covered = covered_tokens(tokens, (span for span in patterns if span.score > 0.5))
    starts = [span.start for span in patterns]
    roster = [
        span
        for span in known.find(tokens, cased=cased)
        if all(other.label == "ADDRESS" for other in _overlapping(span, patterns, starts))
    ]
    names = find_names(tokens, lexicons, covered)
    return merge_names([*roster, *names], patterns)


def covered_tokens(tokens: Sequence[Token], spans: Iterable[Span]) -> set[int]:
    starts = [token.start for token in tokens]
    covered: set[int] = set()
    for span in spans:
        i = max(0, bisect_right(starts, span.start) - 1)
        while i < len(tokens) and tokens[i].start < span.end:
            if tokens[i].end > span.start:
                covered.add(i)
            i += 1
    return covered


def resolve(spans: Iterable[Span]) -> list[Span]:
    """Keep the span with the highest score, then the longest, of those that overlap."""
    kept: list[Span] = []  # in order
    starts: list[int] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.start - s.end, s.start)):
        if not _overlapping(span, kept, starts):
            i = bisect_right(starts, span.start)
            starts.insert(i, span.start)
            kept.insert(i, span)
    return kept


def _overlapping(span: Span, spans: Sequence[Span], starts: Sequence[int]) -> Sequence[Span]:
    """The `spans` that this one overlaps; they are in order and do not overlap each other."""
    first = max(0, bisect_right(starts, span.start) - 1)
    if first < len(spans) and spans[first].end <= span.start:
        first += 1
    return spans[first : bisect_left(starts, span.end)]


def merge_names(names: Iterable[Span], patterns: Sequence[Span]) -> list[Span]:
    """Merge overlapping names: the roster's label and entity win, then the surer span's."""
    merged: list[Span] = []
    for span in sorted([*names, *patterns], key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            merged[-1] = unite(merged[-1], span)
        else:
            merged.append(span)
    return merged


def unite(a: Span, b: Span) -> Span:
    best, other = sorted((a, b), key=lambda s: (s.entity is None, -s.score, s.start - s.end))
    patterned = [span for span in (a, b) if span.label not in NAME_LABELS and span.tier == "sure"]
    label = patterned[0].label if patterned else best.label
    tier: Tier = "sure" if "sure" in (a.tier, b.tier) else "unsure"
    return Span(
        min(a.start, b.start),
        max(a.end, b.end),
        label,
        max(a.score, b.score),
        tier,
        best.rule,
        best.entity or other.entity,
    )


# --- a model as second detector ------------------------------------------------------------------


def combine(
    spans: Sequence[Span], suggested: Sequence[Span], tokens: Sequence[Token]
) -> list[Span]:
    """Add a model's suggestions: those that a rule also found become sure, others are filtered."""
    combined = list(spans)
    starts = [token.start for token in tokens]
    for suggestion in suggested:
        span: Span | None = suggestion
        if suggestion.label in NAME_LABELS:
            span = trim_suggestion(suggestion, tokens, starts)
        if span is None:
            continue
        overlapping = [s for s in combined if span.start < s.end and s.start < span.end]
        if not overlapping:
            combined.append(span)
            continue
        for existing in overlapping:
            if existing.label in NAME_LABELS and span.label in NAME_LABELS:
                combined[combined.index(existing)] = agree(existing, span)
            elif existing.label == span.label:
                rule = f"{existing.rule}+{span.rule}"
                combined[combined.index(existing)] = replace(existing, rule=rule)
    return merge_names(combined, ())


def agree(existing: Span, suggested: Span) -> Span:
    if existing.score < 0.5 or (existing.score < 0.7 and suggested.label not in _fits(existing)):
        return replace(existing, rule=f"{existing.rule}+{suggested.rule}")
    score = max(existing.score, 0.5 + existing.score / 2)
    label = existing.label
    if existing.score < 0.7 and existing.entity is None:
        label = suggested.label
    return replace(
        existing, score=score, tier="sure", label=label, rule=f"{existing.rule}+{suggested.rule}"
    )


def _fits(existing: Span) -> tuple[str, ...]:
    """The labels with which a model confirms a weak rule."""
    if existing.rule == "unknown_capitalised":
        return ("PERSON",) if existing.score >= 0.65 else ()
    return NAME_LABELS


def trim_suggestion(span: Span, tokens: Sequence[Token], starts: Sequence[int]) -> Span | None:
    """A model's span, less the words that belong to no name; None if nothing is left."""
    i = max(0, bisect_right(starts, span.start) - 1)
    inside = []
    while i < len(tokens) and tokens[i].start < span.end:
        if tokens[i].end > span.start:
            inside.append(tokens[i])
        i += 1
    untrimmed = inside
    while inside and _is_edge(inside[0]):
        inside = inside[1:]
    while inside and _is_edge(inside[-1]):
        inside = inside[:-1]
    if not inside:
        return None
    words = [token.lower for token in inside]
    bare = " ".join(words)
    joined = " ".join(token.text.lower().replace("’", "'") for token in inside)
    if any(" ".join(t.lower for t in part) in NOBODY for part in (untrimmed, untrimmed[1:])):
        return None
    public = (vocabulary.JARGON, vocabulary.GENERIC, vocabulary.INSTITUTIONS, NOBODY_WORDS)
    if all(any(word in group for group in public) for word in words):
        return None
    if bare in NOBODY or joined in NOBODY or bare in vocabulary.STATES:
        return None
    if all(word in NOBODY_WORDS or word in vocabulary.FUNCTION for word in words):
        return None
    if not any(token.is_capitalised for token in inside):
        return None
    first = inside[0]
    if len(inside) == 1 and first.text.endswith("s") and first.text[:-1].isupper():
        return None
    if len(inside) == 1:
        k = bisect_right(starts, first.start) - 1
        if span.label != "PERSON" and k and tokens[k - 1].lower in ("a", "an"):
            return None
        if first.begins_sentence and first.band:
            return None
        if first.band == 1 or first.text.isupper() and len(first.text) <= 5:
            return None
    elif all(token.band in (1, 2) for token in inside) and span.label != "PERSON":
        return None
    score = 0.45 if len(inside) == 1 and first.band else 0.55
    return replace(span, start=first.start, end=inside[-1].end, score=score)


def _is_edge(token: Token) -> bool:
    return (
        not token.is_capitalised
        or token.is_function_word
        or token.lower in vocabulary.WEEKDAYS
        or (token.lower in vocabulary.ADDRESS_FORMS and token.lower not in vocabulary.TITLES)
    )


# --- the transcript as a whole -------------------------------------------------------------------


def repeat_names(
    by_run: Sequence[Sequence[Span]], tokens: Sequence[Sequence[Token]], lexicons: Lexicons
) -> list[list[Span]]:
    """Find a sure name's other occurrences: it counts as a name wherever it is capitalised."""
    sure: Counter[str] = Counter()
    labels: dict[str, str] = {}
    entities: dict[str, str | None] = {}
    for spans, run_tokens in zip(by_run, tokens, strict=True):
        for i in covered_tokens(run_tokens, (s for s in spans if _is_sure_name(s))):
            token = run_tokens[i]
            is_name = token.band == 0 or token.lower in lexicons.common_names
            if is_name and token.is_capitalised and len(token.lower) > 2:
                sure[token.lower] += 1
    for spans, run_tokens in zip(by_run, tokens, strict=True):
        names = [span for span in spans if _is_sure_name(span)]
        starts = [span.start for span in names]
        for i in sorted(covered_tokens(run_tokens, names)):
            token = run_tokens[i]
            span = names[max(0, bisect_right(starts, token.start) - 1)]
            labels.setdefault(token.lower, span.label)
            entities.setdefault(token.lower, span.entity)
    skip = vocabulary.GENERIC | vocabulary.TITLES | vocabulary.CONNECTORS | NOBODY_WORDS
    repeated = []
    for spans, run_tokens in zip(by_run, tokens, strict=True):
        covered = covered_tokens(run_tokens, (s for s in spans if s.tier == "sure"))
        extra = [
            Span(
                token.start,
                token.end,
                labels[token.lower],
                0.75,
                "sure",
                "repeated_name",
                entities[token.lower],
            )
            for i, token in enumerate(run_tokens)
            if token.lower in sure
            and i not in covered
            and token.is_capitalised
            and token.lower not in skip
            and token.lower not in NOBODY
            and (token.band == 0 or not token.begins_sentence)
        ]
        repeated.append(merge_names([*spans, *extra], ()) if extra else list(spans))
    return repeated


def _is_sure_name(span: Span) -> bool:
    return span.label in NAME_LABELS and span.tier == "sure" and span.rule != "spelled_out"


def lower_promise(span: Span) -> Span:
    if span.label in NAME_LABELS:
        return replace(span, tier="unsure", score=min(span.score, UNCASED_SCORE))
    return span


def to_occurrences(
    segments: Sequence[SpokenSegment], runs: Sequence[_Run], by_run: Sequence[Sequence[Span]]
) -> list[Occurrence]:
    """Convert spans of runs to spans of segments; a span in two segments becomes two."""
    names: dict[tuple[str, str], str] = {}
    occurrences = []
    for run, spans in zip(runs, by_run, strict=True):
        for span in spans:
            entity = span.entity
            if entity is None and span.label in NAME_LABELS:
                key = (span.label, run.text[span.start : span.end].casefold())
                entity = names.setdefault(key, f"{span.label.lower()}-{len(names) + 1}")
            k = bisect_right(run.starts, span.start) - 1
            while k < len(run.starts) and run.starts[k] < span.end:
                segment = segments[run.segments[k]]
                start = max(0, span.start - run.starts[k])
                end = min(len(segment.text), span.end - run.starts[k])
                if start < end:
                    occurrences.append(
                        Occurrence(
                            segment=run.segments[k],
                            segment_id=segment.id,
                            start=start,
                            end=end,
                            words=words_of(segment, start, end),
                            label=span.label,
                            score=round(span.score, 2),
                            tier=span.tier,
                            rule=span.rule,
                            entity=entity,
                        )
                    )
                k += 1
    return sorted(occurrences, key=lambda o: (o.segment, o.start))


def words_of(segment: SpokenSegment, start: int, end: int) -> tuple[int, int] | None:
    """The range of words that overlap characters [start, end)."""
    if not segment.word_ends:
        return None
    first = bisect_right(segment.word_ends, start)
    last = bisect_right(segment.word_ends, end - 1) + 1
    return first, min(last, len(segment.word_ends))
