"""Information that helps people recognise the speakers: talk times, quotes, a suggested role."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.statistics import compute_statistics
from models.transcript import Segment, Transcript, mean_probability, text_of

N_QUOTES = 3
QUOTE_WORDS = 12  # more do not fit on a line
FEW_WORDS = 4  # "Yes." does not show who speaks


@dataclass(frozen=True)
class Quote:
    segment: str  # its id
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Voice:
    """`suggested_role`: None unless this speaker seems to lead the conversation."""

    label: str
    talk_time: float  # s
    talk_share: float
    words: int
    quotes: tuple[Quote, ...]
    suggested_role: str | None


def describe_voices(transcript: Transcript) -> tuple[Voice, ...]:
    """
    Args:
        transcript: with labels as speakers.
    """
    statistics = compute_statistics(transcript)
    roles = {suggestion.speaker: suggestion.role for suggestion in statistics.suggestions}
    return tuple(
        Voice(
            counted.speaker,
            counted.talk_time,
            counted.talk_share,
            counted.words,
            choose_quotes([s for s in transcript.segments if s.speaker == counted.speaker]),
            roles.get(counted.speaker),
        )
        for counted in statistics.speakers
    )


def choose_quotes(segments: Sequence[Segment]) -> tuple[Quote, ...]:
    """Return the beginnings of well-recognised segments from all parts of the session."""
    spoken = [one for one in segments if one.words]
    useful = [one for one in spoken if len(one.words) >= FEW_WORDS] or spoken
    n = min(N_QUOTES, len(useful))
    parts = [useful[len(useful) * i // n : len(useful) * (i + 1) // n] for i in range(n)]
    return tuple(
        _quote(max(part, key=lambda one: mean_probability(one.words[:QUOTE_WORDS]) or 0.0))
        for part in parts
    )


def _quote(segment: Segment) -> Quote:
    words = segment.words[:QUOTE_WORDS]
    rest = " …" if len(segment.words) > QUOTE_WORDS else ""
    end = max(word.end for word in words)
    return Quote(segment.id, words[0].start, end, text_of(words) + rest)
