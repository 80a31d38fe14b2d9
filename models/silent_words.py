"""Moves words that Whisper timed in silence to the speech beside them.

Whisper may time a short answer on its own, such as "Okay.", seconds too late, in the silence after
it. The answer's speech region then has no word, and the word has no speech.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import inf

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word

MAX_DISTANCE = 5.0  # s between a word and the speech that it is moved to
MAX_WORDS_PER_SECOND = 7.0  # people do not speak faster, so longer texts are not moved


def move_words_into_speech(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> tuple[Word, ...]:
    """Move words that are wholly in silence to the nearest speech without words beside them.

    No other word lies between, so the order stays. Words with no such speech nearby are not moved.

    Args:
        words: by start.
        regions: in order, without overlap.
    """
    moved = list(words)
    wordless = _find_wordless(words, regions)
    starts = [region.start for region in wordless]
    first = 0
    while first < len(words):
        after = first
        while after < len(words) and _is_silent(words[after], regions):
            after += 1
        if after > first:
            begin = moved[first - 1].end if first else 0.0
            end = words[after].start if after < len(words) else inf
            between = wordless[bisect_left(starts, begin) : bisect_left(starts, end)]
            region = _nearest(words[first:after], [r for r in between if r.end <= end])
            if region is not None:
                moved[first:after] = _place(words[first:after], region)
        first = after + 1
    return tuple(moved)


def _is_silent(word: Word, regions: Sequence[SpeechRegion]) -> bool:
    after = bisect_left(regions, word.end, key=lambda region: region.start)
    return after == 0 or regions[after - 1].end <= word.start


def _find_wordless(words: Sequence[Word], regions: Sequence[SpeechRegion]) -> list[SpeechRegion]:
    starts = [word.start for word in words]
    latest = [0.0, *accumulate((word.end for word in words), max)]  # end of the first n words
    return [r for r in regions if latest[bisect_left(starts, r.end)] <= r.start]


def _nearest(run: Sequence[Word], regions: Sequence[SpeechRegion]) -> SpeechRegion | None:
    def distance(region: SpeechRegion) -> float:
        return max(region.start - run[-1].end, run[0].start - region.end)

    fitting = [
        region
        for region in regions
        if distance(region) <= MAX_DISTANCE
        and len(run) <= max(1.0, MAX_WORDS_PER_SECOND * region.duration)
    ]
    return min(fitting, key=distance, default=None)


def _place(run: Sequence[Word], region: SpeechRegion) -> list[Word]:
    """The words one after another from the region's start, shortened if it is too short."""
    share = min(1.0, region.duration / max(sum(word.end - word.start for word in run), 1e-6))
    placed, start = [], region.start
    for word in run:
        end = start + share * (word.end - word.start)
        placed.append(replace(word, start=round(start, 3), end=round(end, 3)))
        start = end
    return placed
