"""Moves words that Whisper timed in silence to the speech beside them.

Whisper may time a short answer on its own, such as "Okay.", seconds too late, in the silence after
it. The answer's speech region then has no word, and the word has no speech.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word

MAX_DISTANCE = 5.0  # s between a word and the speech that it is moved to,
PART_DISTANCE = 1.0  # or at most this, if the same speech has words later,
MIN_PART = 0.5  # s without any at its beginning; less is a breath
MAX_WORDS_PER_SECOND = 7.0  # people do not speak faster, so longer texts are not moved


def move_words_into_speech(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> tuple[Word, ...]:
    """Move words that are wholly in silence to the nearest speech without words beside them.

    That is a speech region without words, or the beginning of one before its first word.

    No other word lies between, so the order stays. Words with no such speech nearby are not moved.

    Args:
        words: by start.
        regions: in order, without overlap.
    """
    moved = list(words)
    wordless = _find_wordless(words, regions)
    starts = [stretch.start for stretch in wordless]
    first = 0
    while first < len(words):
        after = first
        while after < len(words) and _is_silent(words[after], regions):
            after += 1
        if after > first:
            begin = moved[first - 1].end if first else 0.0
            end = words[after].start if after < len(words) else inf
            between = wordless[bisect_left(starts, begin) : bisect_left(starts, end)]
            stretch = _nearest(words[first:after], [s for s in between if s.end <= end])
            if stretch is not None:
                moved[first:after] = _place(words[first:after], stretch)
        first = after + 1
    return tuple(moved)


def _is_silent(word: Word, regions: Sequence[SpeechRegion]) -> bool:
    after = bisect_left(regions, word.end, key=lambda region: region.start)
    return after == 0 or regions[after - 1].end <= word.start


@dataclass(frozen=True)
class _Stretch:
    """Speech without words. `reach`: s, how far away a word of it may have been timed."""

    start: float
    end: float
    reach: float

    @property
    def duration(self) -> float:
        return self.end - self.start


def _find_wordless(words: Sequence[Word], regions: Sequence[SpeechRegion]) -> list[_Stretch]:
    """By start, without overlap."""
    starts = [word.start for word in words]
    latest = [0.0, *accumulate((word.end for word in words), max)]  # end of the first n words
    found = []
    for region in regions:
        if latest[bisect_left(starts, region.end)] <= region.start:
            found.append(_Stretch(region.start, region.end, MAX_DISTANCE))
            continue
        ended = latest[before := bisect_left(starts, region.start)]  # of the words before it
        first = starts[before] if before < len(words) else region.end
        if ended <= region.start and first - region.start >= MIN_PART:
            found.append(_Stretch(region.start, first, PART_DISTANCE))
    return found


def _nearest(run: Sequence[Word], stretches: Sequence[_Stretch]) -> _Stretch | None:
    def distance(stretch: _Stretch) -> float:
        return max(stretch.start - run[-1].end, run[0].start - stretch.end)

    fitting = [
        stretch
        for stretch in stretches
        if distance(stretch) <= stretch.reach
        and len(run) <= max(1.0, MAX_WORDS_PER_SECOND * stretch.duration)
    ]
    return min(fitting, key=distance, default=None)


def _place(run: Sequence[Word], stretch: _Stretch) -> list[Word]:
    """The words one after another from the stretch's start, shortened if it is too short."""
    share = min(1.0, stretch.duration / max(sum(word.end - word.start for word in run), 1e-6))
    placed, start = [], stretch.start
    for word in run:
        end = start + share * (word.end - word.start)
        placed.append(replace(word, start=round(start, 3), end=round(end, 3)))
        start = end
    return placed
