"""Which passages of a session's recordings are masked, and what replaces the samples there.

    spans of text -> passages of the timeline -> masked spans of each recording -> samples

Word times are precise to about 0.15 s, so each passage is padded; and because Whisper often ends a
word too early, it reaches into the pauses beside it. Where the time of a word is not certain, its
passage is widened until it must contain the word.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from models.audio.recording import SAMPLE_RATE
from models.transcript import Flag, Segment, Source, Transcript, Word

PADDING = 0.15  # s on each side, the error of word times
REACH = 0.75  # s, into the pause before and after a mention
MAX_DRIFT = 1.5e-4  # s that the clock of a second recorder may gain or lose in a second
SHORTEST_GAP = 0.1  # s; masked spans that are closer together become one
FADE = 0.005  # s, of the tone; it lies within the span
TONE_HZ = 1000.0
SOFTEST_TONE, LOUDEST_TONE = -40.0, -20.0  # dBFS; in between, it is as loud as the recording
SECONDS_PER_LETTER = 0.05  # of fast speech; a passage must have room for its words
MIN_SECONDS_PER_LETTER = 0.02  # of a word with a certain time; nobody speaks faster
LETTERS_PER_DIGIT = 5  # as spoken: "oh four one" is 041
# Flags that cast doubt on the times of words.
TIMING_FLAGS = ("crammed_words", "few_words", "words_without_speech")

Style = Literal["tone", "silence"]
Reason = Literal["words", "gap", "segment", "neighbours", "untranscribed"]
WIDENED: tuple[Reason, ...] = ("gap", "segment", "neighbours")


@dataclass(frozen=True)
class TextSpan:
    """Characters [start, stop) of a segment's text, in code points."""

    segment: str  # id
    start: int
    stop: int
    label: str


@dataclass(frozen=True)
class Passage:
    """A passage of the session's timeline that must not be heard, and what determined its length.

    `reason`:
        words          the times of its words, and the pauses beside them
        gap            from the end of the last word before it whose time is certain, to the start
                       of the first such word after it
        segment        the whole segment, because the gap is too short for the words
        neighbours     the segment and those beside it, because the segment is too short
        untranscribed  speech without words: nobody can have reviewed it
    """

    start: float
    end: float
    reason: Reason
    segment: str | None = None  # id
    label: str | None = None


@dataclass(frozen=True)
class MaskedSpan:
    """A masked interval of one recording, on its own timeline; padding included."""

    start: float
    end: float
    reasons: tuple[Reason, ...]
    labels: tuple[str, ...]
    segments: tuple[str, ...]  # ids
    n_mentions: int

    @property
    def is_widened(self) -> bool:
        return any(reason in WIDENED for reason in self.reasons)


class Unplaceable(Exception):
    """Nothing shows where a mention was spoken. `segments` are the ids of these segments."""

    def __init__(self, segments: Sequence[str]) -> None:
        super().__init__(f"{len(segments)} segments are too short for their words")
        self.segments = tuple(segments)


# --- passages -------------------------------------------------------------------------------------


def find_passages(transcript: Transcript, spans: Iterable[TextSpan]) -> list[Passage]:
    """Find where each span of text was spoken.

    Raises:
        Unplaceable
    """
    timeline = _Timeline(transcript)
    places = {segment.id: i for i, segment in enumerate(transcript.segments)}
    passages, lost = list[Passage](), list[str]()
    for span in spans:
        passage = timeline.locate(places[span.segment], span)
        if passage is None:
            lost.append(span.segment)
        else:
            passages.append(passage)
    if lost:
        raise Unplaceable(list(dict.fromkeys(lost)))
    return passages


def find_untranscribed(transcript: Transcript) -> list[Passage]:
    """Return the flagged speech without words that nobody has transcribed since."""
    words = sorted(transcript.words, key=lambda word: word.start)
    return [
        Passage(flag.start, flag.end, "untranscribed")
        for flag in transcript.flags
        if flag.kind == "speech_without_words"
        and not any(word.start < flag.end and word.end > flag.start for word in words)
    ]


class _Timeline:
    """All words of a transcript, in order of the text."""

    def __init__(self, transcript: Transcript) -> None:
        self._duration = transcript.duration
        self._segments = transcript.segments
        self._words = transcript.words
        counts = (len(segment.words) for segment in self._segments)
        self._first = [0, *accumulate(counts)]  # index of each segment's first word
        doubtful = [flag for flag in transcript.flags if flag.kind in TIMING_FLAGS]
        self._certain = [has_certain_time(word, doubtful) for word in self._words]
        # The nearest word with a certain time before and after each place between two words.
        self._before: list[int | None] = [None]
        for i, certain in enumerate(self._certain):
            self._before.append(i if certain else self._before[-1])
        after: list[int | None] = [None]
        for i in range(len(self._words) - 1, -1, -1):
            after.append(i if self._certain[i] else after[-1])
        self._after = after[::-1]

    def locate(self, place: int, span: TextSpan) -> Passage | None:
        """Return the passage of a span in the segment at `place`; None if there is no room for it.

        A span without words is located as if it were the whole segment.
        """
        segment = self._segments[place]
        found = words_at(segment, span.start, span.stop)
        first, stop = (self._first[place] + i for i in found or (0, len(segment.words)))
        words = self._words[first:stop]
        start = min((word.start for word in words), default=segment.start)
        end = max((word.end for word in words), default=segment.end)
        if found and all(self._certain[first:stop]):
            start, end = self._reach(first, stop, start, end)
            return Passage(start, end, "words", span.segment, span.label)
        needed = SECONDS_PER_LETTER * sum(_n_letters(word) for word in words)
        for reason, (low, high) in zip(WIDENED, self._widen(place, first, stop), strict=True):
            start, end = min(start, low), max(end, high)
            if end - start >= needed and end > start:
                return Passage(start, end, reason, span.segment, span.label)
        return None

    def _reach(self, first: int, stop: int, start: float, end: float) -> tuple[float, float]:
        """Extend the times of the words [first, stop) into the pauses beside them."""
        before = self._words[first - 1].end if first else 0.0
        after = self._words[stop].start if stop < len(self._words) else self._duration
        return min(start, max(before, start - REACH)), max(end, min(after, end + REACH))

    def _widen(self, place: int, first: int, stop: int) -> Iterator[tuple[float, float]]:
        """Yield ever wider intervals around the words [first, stop)."""
        before, after = self._before[first], self._after[stop]
        yield (
            0.0 if before is None else self._words[before].end,
            self._duration if after is None else self._words[after].start,
        )
        yield self._segments[place].start, self._segments[place].end
        beside = self._segments[max(0, place - 1) : place + 2]
        yield min(each.start for each in beside), max(each.end for each in beside)


def words_at(segment: Segment, start: int, stop: int) -> tuple[int, int] | None:
    """Return the range [first, after) of a segment's words that have characters in [start, stop).

    None if there is no such word.
    """
    raw = "".join(word.text for word in segment.words)
    done = len(raw.lstrip()) - len(raw)  # the text begins without this white space
    found = []
    for i, word in enumerate(segment.words):
        begin = done + len(word.text) - len(word.text.lstrip())
        done += len(word.text)
        if begin < stop and start < done - len(word.text) + len(word.text.rstrip()):
            found.append(i)
    return (found[0], found[-1] + 1) if found else None


def has_certain_time(word: Word, doubtful: Iterable[Flag]) -> bool:
    """
    Args:
        doubtful: flags that cast doubt on times.
    """
    middle = (word.start + word.end) / 2
    return (
        not word.placed
        and word.end - word.start >= MIN_SECONDS_PER_LETTER * _n_letters(word)
        and not any(flag.start <= middle <= flag.end for flag in doubtful)
    )


def _n_letters(word: Word) -> int:
    """About how many letters the word has as it is spoken."""
    n_digits = sum(map(str.isdigit, word.text))
    return sum(map(str.isalnum, word.text)) + (LETTERS_PER_DIGIT - 1) * n_digits


# --- masked spans ---------------------------------------------------------------------------------


def plan_masks(
    passages: Iterable[Passage], sources: Sequence[Source]
) -> tuple[tuple[MaskedSpan, ...], ...]:
    """Return the spans to mask in each recording: padded, in order, without overlap.

    A passage is masked in every recording that was running, because each may have picked it up.
    Where several ran at once, all times are on the clock of the first, and masks in the others
    widen with time, by as much as their clocks may drift.
    """
    ordered = sorted(passages, key=lambda passage: (passage.start, passage.end))
    at_once = any(
        after.start < before.start + before.duration - 1 for before, after in pairwise(sources)
    )
    drifts = [MAX_DRIFT if at_once and i else 0.0 for i in range(len(sources))]
    return tuple(
        tuple(_merge(sorted(_place(ordered, source, drift), key=lambda span: span.start)))
        for source, drift in zip(sources, drifts, strict=True)
    )


def _place(passages: Iterable[Passage], source: Source, drift: float) -> Iterator[MaskedSpan]:
    for passage in passages:
        padding = PADDING + drift * max(0.0, passage.end - source.start)
        start = max(0.0, passage.start - padding - source.start)
        end = min(source.duration, passage.end + padding - source.start)
        if start < end:
            yield MaskedSpan(
                math.floor(start * SAMPLE_RATE) / SAMPLE_RATE,
                math.ceil(end * SAMPLE_RATE) / SAMPLE_RATE,
                (passage.reason,),
                (passage.label,) if passage.label else (),
                (passage.segment,) if passage.segment else (),
                int(passage.reason != "untranscribed"),
            )


def _merge(spans: Iterable[MaskedSpan]) -> Iterator[MaskedSpan]:
    """
    Args:
        spans: by start.
    """
    last: MaskedSpan | None = None
    for span in spans:
        if last is None:
            last = span
        elif span.start > last.end + SHORTEST_GAP:
            yield last
            last = span
        else:
            last = MaskedSpan(
                last.start,
                max(last.end, span.end),
                tuple(dict.fromkeys([*last.reasons, *span.reasons])),
                tuple(dict.fromkeys([*last.labels, *span.labels])),
                tuple(dict.fromkeys([*last.segments, *span.segments])),
                last.n_mentions + span.n_mentions,
            )
    if last is not None:
        yield last


# --- samples --------------------------------------------------------------------------------------


def mask_samples(
    samples: np.ndarray, first: int, spans: Iterable[MaskedSpan], tone_dbfs: float | None
) -> None:
    """Replace the samples of a block that lie in masked spans, in place.

    Nothing of the recording is left there: it is not faded out, because a fade would keep some of
    it. Only the tone is faded.

    Args:
        samples: float32, (n_samples,), 16 kHz.
        first: number of the block's first sample in the recording.
        tone_dbfs: RMS of the tone; None for silence.
    """
    for span in spans:
        start, stop = round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)
        low, high = max(start, first), min(stop, first + len(samples))
        if low >= high:
            continue
        samples[low - first : high - first] = 0
        if tone_dbfs is not None:
            samples[low - first : high - first] = _tone(low, high, start, stop, tone_dbfs)


def _tone(low: int, high: int, start: int, stop: int, dbfs: float) -> np.ndarray:
    """Return samples `low` to `high` of the tone that lasts from `start` to `stop`."""
    at = np.arange(low, high)
    edge = np.minimum(at - start, stop - 1 - at) / (FADE * SAMPLE_RATE)
    envelope = (1 - np.cos(np.pi * np.minimum(1, edge))) / 2
    wave = np.sin(2 * np.pi * TONE_HZ / SAMPLE_RATE * (at - start))
    tone: np.ndarray = (math.sqrt(2) * 10 ** (dbfs / 20) * envelope * wave).astype(np.float32)
    return tone


def tone_level(rms_dbfs: float) -> float:
    """Return the tone's RMS for a recording with this RMS, both in dBFS."""
    return min(max(rms_dbfs, SOFTEST_TONE), LOUDEST_TONE)
