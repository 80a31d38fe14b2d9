"""Gaps: speech in a window that got no words, which is listened to again.

Whisper sometimes skips speech: it ends a window's text early, or takes a quiet voice for silence.
A gap is decoded again in a window that starts at the gap and runs on for 30 s into whatever
follows: Whisper hears a whole passage better than a short clipping of it, of which it invents or
loses words. Only the words in the gap are added, and none if the text is unreliable. Then the gap
stays empty and is flagged (models/quality.py): nothing is invented to fill it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.whisper_engine.decoder import (
    COMPRESSION_RATIO_THRESHOLD,
    LOGPROB_THRESHOLD,
    Scored,
)
from models.windows import MAX_WINDOW, PADDING, Window

MIN_GAP = 2.0  # s of speech without a word that justify another window,
MIN_LAST_GAP = 1.0  # or this many after the last word: texts often end early
REPEATED = 2  # words at either edge of a gap that may have been heard twice,
SEAM = 1.0  # s, this close to the edge
MIN_PROBABILITY = 0.4  # mean of a gap's words; the average of their window says nothing of them
CRAMMED = 4  # words; this many do not start at the same time, unless the text is invented
SAME_TIME = 0.03  # s, one and a half steps of Whisper's time


def find_gaps(
    words: Sequence[Word], regions: Sequence[SpeechRegion], within: Window
) -> list[Window]:
    """The stretches of `within`, beside or between words, with enough speech and no word.

    Args:
        words: those in `within`, by start.
        regions: speech, in order, without overlap.
    """
    ends = np.maximum.accumulate([within.start, *(word.end for word in words)]).tolist()
    starts = [*(word.start for word in words), within.end]
    least = [*(MIN_GAP for _ in words), MIN_LAST_GAP]
    return [
        Window(round(begin, 2), round(end, 2))
        for begin, end, seconds in zip(ends, starts, least, strict=True)
        if end - begin >= seconds and _measure_speech(regions, begin, end) >= seconds
    ]


def _measure_speech(regions: Sequence[SpeechRegion], begin: float, end: float) -> float:
    inside = (min(region.end, end) - max(region.start, begin) for region in regions)
    return sum(seconds for seconds in inside if seconds > 0)


def cut_at_gap(gap: Window, regions: Sequence[SpeechRegion], limit: float) -> Window:
    """The window to decode for a gap: from its first speech on, up to `limit` seconds."""
    first = next(region for region in regions if region.end > gap.start)
    start = round(max(gap.start, first.start - PADDING), 2)
    return Window(start, float(min(round(start + MAX_WINDOW, 2), np.floor(limit * 100) / 100)))


def is_reliable(text: Scored) -> bool:
    """Whether the text passed; the one of the last temperature is kept even if it did not."""
    return (
        text.avg_logprob >= LOGPROB_THRESHOLD
        and text.compression_ratio <= COMPRESSION_RATIO_THRESHOLD
    )


def find_crammed(words: Sequence[Word]) -> list[tuple[int, int]]:
    """The [first, after) of each run of at least CRAMMED words that start at the same time.

    The alignment puts words there that it finds nowhere in the audio.
    """
    runs = []
    first = 0
    for i in range(1, len(words) + 1):
        if i == len(words) or words[i].start - words[first].start > SAME_TIME:
            if i - first >= CRAMMED:
                runs.append((first, i))
            first = i
    return runs


def select_words(gap: Window, heard: Sequence[Word]) -> list[Word]:
    """The words of a gap's window that lie in the gap; none if they look invented."""
    inside = [word for word in heard if gap.start <= (word.start + word.end) / 2 < gap.end]
    if not inside or find_crammed(inside):
        return []
    probability = sum(word.probability or 0.0 for word in inside) / len(inside)
    return inside if probability >= MIN_PROBABILITY else []


def fill_gaps(words: Sequence[Word], found: Sequence[Sequence[Word]]) -> tuple[Word, ...]:
    """All words, by start, without those that were heard twice.

    Args:
        words: of the windows that hold all speech, by start.
        found: the words selected for each gap.
    """
    known = list(words)
    for of_gap in found:
        if not of_gap:
            continue
        first = bisect_left(known, of_gap[0].start - MAX_WINDOW, key=_get_start)
        after = bisect_right(known, of_gap[-1].end + MAX_WINDOW, key=_get_start)
        near = known[first:after]
        new = [word for word in of_gap if not _overlaps_any(word, near)]
        if new:
            new = _drop_repeated(new, near)
        known[first:after] = sorted([*near, *new], key=_get_start)
    return tuple(known)


def _get_start(word: Word) -> float:
    return word.start


def _drop_repeated(new: list[Word], known: Sequence[Word]) -> list[Word]:
    """Drop words at the edges that repeat the known words beside them."""
    start = new[0].start
    before = [word for word in known if word.start <= start][-REPEATED:]
    after = [word for word in known if word.start > start][:REPEATED]
    for n in range(min(len(new), len(before)), 0, -1):
        near = new[n - 1].end - before[-1].end <= SEAM
        if near and _texts(new[:n]) == _texts(before[-n:]):
            new = new[n:]
            break
    for n in range(min(len(new), len(after)), 0, -1):
        near = after[0].start - new[-n].start <= SEAM
        if near and _texts(new[-n:]) == _texts(after[:n]):
            return new[:-n]
    return new


def _texts(words: Sequence[Word]) -> list[str]:
    return ["".join(filter(str.isalnum, word.text)).casefold() for word in words]


def _overlaps_any(word: Word, words: Sequence[Word]) -> bool:
    return any(word.start < other.end and other.start < word.end for other in words)
