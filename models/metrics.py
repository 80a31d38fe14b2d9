"""Metrics of a transcript against a reference: word errors, word times, speakers, turns.

Every metric is an `ErrorRate`. Over several recordings, errors and totals are summed before
dividing, because a mean of rates would favour short recordings. docs/researcher/accuracy.md
explains each.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.error_rates import ErrorRate
from models.languages import WITHOUT_SPACES
from models.transcript import Turn

TCP_COLLAR = 5.0  # s, MeetEval's recommendation for long recordings


@dataclass(frozen=True)
class TimedText:
    """A word of a reference or a hypothesis; seconds. `speaker` is None if nobody is named."""

    text: str
    start: float
    end: float
    speaker: str | None = None


@dataclass(frozen=True)
class Spoken:
    """One speaker's words in one stretch. `speaker` is None if a hypothesis names none."""

    speaker: str | None
    start: float
    end: float
    text: str


def normaliser(language: str) -> Callable[[str], str]:
    """Return Whisper's own normaliser, as in its paper.

    In languages without spaces, it makes each character a word.
    """
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    chosen: Callable[[str], str] = (
        EnglishTextNormalizer()
        if language == "en"
        else BasicTextNormalizer(split_letters=language in WITHOUT_SPACES)
    )
    return chosen


def normaliser_name(language: str) -> str:
    kind = "EnglishTextNormalizer" if language == "en" else "BasicTextNormalizer"
    letters = ", characters as words" if language in WITHOUT_SPACES else ""
    return f"whisper.normalizers.{kind}{letters}"


@dataclass(frozen=True)
class WordCounts:
    """Word errors by kind; `total` counts the reference's words. Insertions are invented words."""

    substitutions: int
    deletions: int
    insertions: int
    total: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: "WordCounts") -> "WordCounts":
        return WordCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.total + other.total,
        )


def count_word_errors(reference: str, hypothesis: str, language: str = "en") -> WordCounts:
    """Count substitutions, deletions and insertions after whisper's normaliser."""
    import jiwer

    normalise = normaliser(language)
    expected, found = normalise(reference).split(), normalise(hypothesis).split()
    if not expected:
        return WordCounts(0, 0, len(found), 0)
    counts = jiwer.process_words(" ".join(expected), " ".join(found))
    return WordCounts(counts.substitutions, counts.deletions, counts.insertions, len(expected))


def word_errors(reference: str, hypothesis: str, language: str = "en") -> ErrorRate:
    """Count word errors of all kinds after whisper's normaliser (WER)."""
    counts = count_word_errors(reference, hypothesis, language)
    return ErrorRate(counts.errors, counts.total)


def cp_word_errors(
    reference: Sequence[Spoken], hypothesis: Sequence[Spoken], language: str = "en"
) -> ErrorRate:
    """Count word errors in each speaker's concatenated words, with the best pairing of speakers.

    This is cpWER. A word with the wrong speaker is two errors: a deletion for one speaker and an
    insertion for the other. Source: MeetEval.
    """
    from meeteval.wer import cp_word_error_rate

    counts = cp_word_error_rate(_seglst(reference, language), _seglst(hypothesis, language))
    return ErrorRate(counts.errors, counts.length)


def tcp_word_errors(
    reference: Sequence[Spoken],
    hypothesis: Sequence[Spoken],
    language: str = "en",
    *,
    collar: float = TCP_COLLAR,
) -> ErrorRate:
    """Count word errors as in cpWER, but match words only within `collar` seconds (tcpWER).

    A stretch's time is divided among its words by their lengths, in reference and hypothesis alike.
    """
    from meeteval.wer import time_constrained_minimum_permutation_word_error_rate as tcp

    expected, found = _seglst(reference, language), _seglst(hypothesis, language)
    counts = tcp(expected, found, collar=collar)
    return ErrorRate(counts.errors, counts.length)


def _seglst(spoken: Sequence[Spoken], language: str) -> Any:
    from meeteval.io import SegLST

    normalise = normaliser(language)
    return SegLST(
        [
            {
                "session_id": "recording",
                "speaker": part.speaker or "unknown",
                "start_time": part.start,
                "end_time": max(part.end, part.start),
                "words": normalise(part.text),
            }
            for part in spoken
        ]
    )


def speaker_errors(
    reference: Sequence[Spoken], hypothesis: Sequence[Spoken], language: str = "en"
) -> tuple[ErrorRate, ErrorRate]:
    """Count correctly recognised words with the wrong speaker, and those without a speaker.

    Speakers are paired so that as many words as possible are right. If the hypothesis has more
    speakers than the reference, all words of the unpaired ones are wrong. Words without a speaker
    in the reference do not count.

    Returns:
        The words with the wrong speaker, and those without one.
    """
    from scipy.optimize import linear_sum_assignment

    expected, found = _words_of(reference, language), _words_of(hypothesis, language)
    pairs = Counter(
        (expected[i][1], found[j][1])
        for i, j in _match_words([text for text, _ in expected], [text for text, _ in found])
        if expected[i][1] is not None
    )
    total = pairs.total()
    nobody = sum(n for (_, speaker), n in pairs.items() if speaker is None)
    names = sorted({str(speaker) for speaker, _ in pairs})
    labels = sorted({speaker for _, speaker in pairs if speaker is not None})
    together = np.array([[pairs[name, label] for label in labels] for name in names])
    right = 0
    if together.size:
        right = int(together[linear_sum_assignment(together, maximize=True)].sum())
    return ErrorRate(total - nobody - right, total), ErrorRate(nobody, total)


def turn_speaker_errors(
    reference: Sequence[Turn], hypothesis: Sequence[TimedText]
) -> tuple[ErrorRate, ErrorRate]:
    """Count words with the wrong speaker, and those without one, where only turns are known.

    A word counts if anybody talks during it in the reference. It is wrong if its speaker's person
    talks during less than half as much of it as somebody else. Speakers are paired with persons so
    that as many words as possible are right.

    Returns:
        The words with the wrong speaker, and those without one.
    """
    from scipy.optimize import linear_sum_assignment

    turns = sorted(reference, key=lambda turn: turn.start)
    heard: list[tuple[str | None, dict[str, float]]] = []
    for word in hypothesis:
        shares: dict[str, float] = {}
        for turn in turns:
            if turn.start >= word.end:
                break
            shared = min(word.end, turn.end) - max(word.start, turn.start)
            if shared > 0:
                shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
        if shares:
            heard.append((word.speaker, shares))
    people = sorted({turn.speaker for turn in turns})
    labels = sorted({label for label, _ in heard if label is not None})
    likely = Counter((max(shares, key=lambda who: shares[who]), label) for label, shares in heard)
    together = np.array([[likely[who, label] for label in labels] for who in people])
    paired: dict[str | None, str] = {}
    if together.size:
        rows, columns = linear_sum_assignment(together, maximize=True)
        paired = {labels[j]: people[i] for i, j in zip(rows, columns, strict=True)}
    nobody = sum(label is None for label, _ in heard)
    wrong = sum(
        label is not None and 2 * shares.get(paired.get(label, ""), 0.0) < max(shares.values())
        for label, shares in heard
    )
    return ErrorRate(wrong, len(heard)), ErrorRate(nobody, len(heard))


def _words_of(spoken: Sequence[Spoken], language: str) -> list[tuple[str, str | None]]:
    return [(word, part.speaker) for part in spoken for word in _bare_words(part.text, language)]


def _bare_words(text: str, language: str) -> list[str]:
    """Split into words without case and punctuation, or characters for WITHOUT_SPACES."""

    def is_kept(c: str) -> bool:  # marks are vowels in Hindi, Thai and other languages
        return c.isalnum() or unicodedata.category(c).startswith("M")

    words = unicodedata.normalize("NFKC", text).lower().split()
    bare = ["".join(filter(is_kept, word)) for word in words]
    return list("".join(bare)) if language in WITHOUT_SPACES else [word for word in bare if word]


def _match_words(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs of indices of the words that were recognised correctly."""
    import jiwer

    if not reference or not hypothesis:
        return []
    aligned = jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]
    return [
        (chunk.ref_start_idx + i, chunk.hyp_start_idx + i)
        for chunk in aligned
        if chunk.type == "equal"
        for i in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def time_errors(
    reference: Sequence[TimedText],
    hypothesis: Sequence[TimedText],
    language: str = "en",
    *,
    tolerance: float = 0.3,
) -> ErrorRate:
    """Count correctly recognised words that start or end more than `tolerance` seconds off."""
    expected, found = (
        [bare for word in words for bare in _bare_timed_words(word, language)]
        for words in (reference, hypothesis)
    )
    pairs = _match_words([word.text for word in expected], [word.text for word in found])
    off = sum(
        abs(expected[i].start - found[j].start) > tolerance
        or abs(expected[i].end - found[j].end) > tolerance
        for i, j in pairs
    )
    return ErrorRate(off, len(pairs))


def _bare_timed_words(word: TimedText, language: str) -> list[TimedText]:
    """Split as `_bare_words` does; characters share their word's time evenly."""
    bare = _bare_words(word.text, language)
    edges = np.linspace(word.start, word.end, len(bare) + 1).tolist()
    return [TimedText(text, *edges[i : i + 2]) for i, text in enumerate(bare)]


def diarisation_errors(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], *, collar: float = 0.0
) -> ErrorRate:
    """Return the diarisation error rate; overlap is scored for each of its speakers."""
    return diarisation_parts(reference, hypothesis, collar=collar)["error"]


def diarisation_parts(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    *,
    collar: float = 0.0,
    skip_overlap: bool = False,
) -> dict[str, ErrorRate]:
    """Return `error` and its parts: `false alarm`, `missed detection` and `confusion`.

    In seconds, out of the reference's speech time. Where turns of one speaker overlap, each second
    counts once. Source: pyannote.metrics.

    Args:
        collar: seconds around each reference boundary that do not count, half on each side.
        skip_overlap: ignore the times when the reference has several speakers.
    """
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(turns: Sequence[Turn]) -> Annotation:
        made = Annotation()
        for speaker in dict.fromkeys(turn.speaker for turn in turns):
            own = ((turn.start, turn.end) for turn in turns if turn.speaker == speaker)
            for start, end in merge_intervals(own):
                made[Segment(start, end), speaker] = speaker
        return made

    names = ("false alarm", "missed detection", "confusion")
    turns = (*reference, *hypothesis)
    if not turns:
        return dict.fromkeys(("error", *names), ErrorRate(0, 0))
    metric = DiarizationErrorRate(collar=collar, skip_overlap=skip_overlap)
    everything = Timeline([Segment(0.0, max(turn.end for turn in turns))])
    found = metric(annotation(reference), annotation(hypothesis), uem=everything, detailed=True)
    parts = {name: ErrorRate(float(found[name]), float(found["total"])) for name in names}
    errors = sum(part.errors for part in parts.values())
    return {"error": ErrorRate(errors, float(found["total"])), **parts}


def count_errors(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> ErrorRate:
    """Count the speakers that are missing or surplus, out of the reference's speakers."""
    expected, found = ({turn.speaker for turn in turns} for turns in (reference, hypothesis))
    return ErrorRate(abs(len(expected) - len(found)), len(expected))


def seconds_without_words(
    reference: Sequence[Turn], hypothesis: Sequence[TimedText], *, shortest: float = 1.5
) -> ErrorRate:
    """Sum the speech that has no words for at least `shortest` seconds, out of all speech."""
    words = merge_intervals((word.start, word.end) for word in hypothesis)
    speech = merge_intervals((turn.start, turn.end) for turn in reference)
    missed = [b - a for a, b in subtract_intervals(speech, words) if b - a >= shortest]
    return ErrorRate(sum(missed), sum(b - a for a, b in speech))


def invented_seconds(
    reference: Sequence[Turn],
    hypothesis: Sequence[TimedText],
    duration: float,
    *,
    beside: float = 0.5,
) -> ErrorRate:
    """Sum the seconds of words further than `beside` from speech, out of all such seconds."""
    speech = merge_intervals((turn.start - beside, turn.end + beside) for turn in reference)
    words = merge_intervals((word.start, word.end) for word in hypothesis)
    silence = subtract_intervals([(0.0, duration)], speech)
    without_words = subtract_intervals(silence, words)
    total = sum(b - a for a, b in silence)
    return ErrorRate(total - sum(b - a for a, b in without_words), total)


def merge_intervals(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sort intervals and join those that overlap or adjoin."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif end > start:
            joined.append((start, end))
    return joined


def subtract_intervals(
    intervals: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Remove `others` from `intervals`; both as `merge_intervals` returns them."""
    left = []
    i = 0
    for start, end in intervals:
        while i < len(others) and others[i][1] <= start:
            i += 1
        j = i
        while j < len(others) and others[j][0] < end:
            if others[j][0] > start:
                left.append((start, others[j][0]))
            start = max(start, others[j][1])
            j += 1
        if end > start:
            left.append((start, end))
    return left
