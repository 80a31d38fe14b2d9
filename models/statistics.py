"""Who spoke how much, and what role that suggests: counted from a transcript, never stored apart.

A suggestion is evidence for a person to judge. Nothing is renamed for it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from models.transcript import CLOSING, Overlap, Segment, Transcript, Turn

QUESTION_MARKS = ("?", "？", "؟", "፧")
ASKS_MOST = 0.6  # of all questions; the second then asks two in five at most
FEW_QUESTIONS = 3  # fewer say nothing


@dataclass(frozen=True)
class SpeakerStatistics:
    """`turns`: how often they take the floor; their own pauses and words without a speaker do
    not end a turn.

    `talk_time`, `overlap_time`: seconds, from the full turns: time in which two speak counts for
    both.
    """

    speaker: str
    talk_time: float
    talk_share: float  # of everybody's talk time
    turns: int
    words: int
    questions: int  # sentences that end with a question mark
    overlaps: int
    overlap_time: float


@dataclass(frozen=True)
class Suggestion:
    """What a speaker's role may be, and why."""

    speaker: str
    role: str
    evidence: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    speakers: tuple[SpeakerStatistics, ...]
    words_without_speaker: int
    suggestions: tuple[Suggestion, ...]


def statistics(transcript: Transcript) -> Statistics:
    talk = talk_times(transcript.turns)
    total = sum(talk.values())
    named = (segment.speaker for segment in transcript.segments if segment.speaker is not None)
    turns = Counter(speaker for speaker, _ in groupby(named))
    words = Counter[str | None]()
    questions = Counter[str | None]()
    for segment in transcript.segments:
        words[segment.speaker] += len(segment.words)
        questions[segment.speaker] += n_questions(segment)
    overlaps, overlap_times = _overlaps(transcript.overlaps)
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
    return Statistics(speakers, words[None], tuple(_suggestions(transcript, speakers)))


def talk_times(turns: Sequence[Turn]) -> dict[str, float]:
    """Seconds of each speaker; where turns of one speaker overlap, once."""
    times: dict[str, float] = defaultdict(float)
    reached: dict[str, float] = {}
    for turn in sorted(turns, key=lambda turn: turn.start):
        start = max(turn.start, reached.get(turn.speaker, turn.start))
        times[turn.speaker] += max(0.0, turn.end - start)
        reached[turn.speaker] = max(turn.end, start)
    return times


def n_questions(segment: Segment) -> int:
    return sum(word.text.rstrip(CLOSING).endswith(QUESTION_MARKS) for word in segment.words)


def _overlaps(overlaps: Sequence[Overlap]) -> tuple[Counter[str], dict[str, float]]:
    """How many of each speaker, and how many seconds."""
    counts: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for overlap in overlaps:
        for speaker in overlap.speakers:
            counts[speaker] += 1
            seconds[speaker] += overlap.end - overlap.start
    return counts, seconds


def _suggestions(
    transcript: Transcript, speakers: Sequence[SpeakerStatistics]
) -> Iterator[Suggestion]:
    """Who asks most of the questions is perhaps the one who leads the conversation."""
    total = sum(speaker.questions for speaker in speakers)
    if len(speakers) < 2 or total < FEW_QUESTIONS:
        return
    leader = max(speakers, key=lambda speaker: speaker.questions)
    if leader.questions < ASKS_MOST * total:
        return
    named = next((segment.speaker for segment in transcript.segments if segment.speaker), None)
    yield Suggestion(
        leader.speaker,
        _leading_role(transcript, len(speakers)),
        {
            "questions": leader.questions,
            "share_of_questions": round(leader.questions / total, 3),
            "share_of_talk": leader.talk_share,
            "speaks_first": float(named == leader.speaker),
        },
    )


def _leading_role(transcript: Transcript, n_speakers: int) -> str:
    """As the roster has it, else by the size of the group."""
    roles = {
        entry["role"].strip().lower() for entry in transcript.made_with.options.get("roster", ())
    }
    for role in ("moderator", "interviewer"):
        if role in roles:
            return role
    return "moderator" if n_speakers > 2 else "interviewer"
