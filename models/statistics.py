"""Statistics of each speaker, and the roles they suggest.

They are counted from a transcript whenever they are needed, never stored on their own. A suggestion
is evidence for a person to judge; no speaker is renamed because of it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from models.transcript import CLOSING, Overlap, Segment, Transcript, Turn

QUESTION_MARKS = ("?", "？", "؟", "፧")
ASKS_MOST = 0.6  # of all questions; anyone else then asks at most two in five
MIN_QUESTIONS = 3  # fewer suggest nothing


@dataclass(frozen=True)
class SpeakerStatistics:
    """Counts for one speaker.

    `turns`: how often they take the floor; pauses and words without a speaker do not end a turn.
    `talk_time`, `overlap_time`: seconds, from the full turns: where two people speak, for both.
    """

    speaker: str
    talk_time: float
    talk_share: float  # of the sum of all speakers' talk time
    turns: int
    words: int
    questions: int  # sentences that end with a question mark
    overlaps: int
    overlap_time: float


@dataclass(frozen=True)
class Suggestion:
    """A speaker's possible role, and the evidence for it."""

    speaker: str
    role: str
    evidence: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    speakers: tuple[SpeakerStatistics, ...]
    words_without_speaker: int
    suggestions: tuple[Suggestion, ...]


def compute_statistics(transcript: Transcript) -> Statistics:
    talk = sum_talk_times(transcript.turns)
    total = sum(talk.values())
    named = (segment.speaker for segment in transcript.segments if segment.speaker is not None)
    turns = Counter(speaker for speaker, _ in groupby(named))
    words = Counter[str | None]()
    questions = Counter[str | None]()
    for segment in transcript.segments:
        words[segment.speaker] += len(segment.words)
        questions[segment.speaker] += count_questions(segment)
    overlaps, overlap_times = _count_overlaps(transcript.overlaps)
    speakers = tuple(
        SpeakerStatistics(
            speaker=speaker,
            talk_time=round(talk[speaker], 3),
            talk_share=round(talk[speaker] / total, 4) if total else 0.0,
            turns=turns[speaker],
            words=words[speaker],
            questions=questions[speaker],
            overlaps=overlaps[speaker],
            overlap_time=round(overlap_times[speaker], 3),
        )
        for speaker in transcript.speakers
    )
    return Statistics(speakers, words[None], tuple(_suggest_roles(transcript, speakers)))


def sum_talk_times(turns: Sequence[Turn]) -> dict[str, float]:
    """Return each speaker's seconds; where turns of one speaker overlap, they count once."""
    times: dict[str, float] = defaultdict(float)
    reached: dict[str, float] = {}
    for turn in sorted(turns, key=lambda turn: turn.start):
        start = max(turn.start, reached.get(turn.speaker, turn.start))
        times[turn.speaker] += max(0.0, turn.end - start)
        reached[turn.speaker] = max(turn.end, start)
    return times


def count_questions(segment: Segment) -> int:
    return sum(word.text.rstrip(CLOSING).endswith(QUESTION_MARKS) for word in segment.words)


def _count_overlaps(overlaps: Sequence[Overlap]) -> tuple[Counter[str], dict[str, float]]:
    """Return the number of each speaker's overlaps, and their seconds."""
    counts: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for overlap in overlaps:
        for speaker in overlap.speakers:
            counts[speaker] += 1
            seconds[speaker] += overlap.end - overlap.start
    return counts, seconds


def _suggest_roles(
    transcript: Transcript, speakers: Sequence[SpeakerStatistics]
) -> Iterator[Suggestion]:
    """Suggest that the speaker who asks most of the questions leads the conversation."""
    total = sum(speaker.questions for speaker in speakers)
    if len(speakers) < 2 or total < MIN_QUESTIONS:
        return
    leader = max(speakers, key=lambda speaker: speaker.questions)
    if leader.questions < ASKS_MOST * total:
        return
    first = next((segment.speaker for segment in transcript.segments if segment.speaker), None)
    yield Suggestion(
        leader.speaker,
        _leading_role(transcript, len(speakers)),
        {
            "questions": leader.questions,
            "share_of_questions": round(leader.questions / total, 3),
            "share_of_talk": leader.talk_share,
            "speaks_first": float(first == leader.speaker),
        },
    )


def _leading_role(transcript: Transcript, n_speakers: int) -> str:
    """Return the role's name: from the roster, else by the size of the group."""
    roles = {
        entry["role"].strip().lower() for entry in transcript.made_with.options.get("roster", ())
    }
    for role in ("moderator", "interviewer"):
        if role in roles:
            return role
    return "moderator" if n_speakers > 2 else "interviewer"
