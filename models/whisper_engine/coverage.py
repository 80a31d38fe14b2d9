"""A second look at speech that got no words.

Whisper now and then passes over speech: it ends a window's text early, or takes a quiet voice for
silence. Such a stretch is decoded once more, in windows of its own. Where it gets no words again,
or improbable ones, it stays empty and the check flags it (models/quality.py): nothing is invented
to fill it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.whisper_engine.decoder import COMPRESSION_RATIO, LOGPROB
from models.whisper_engine.engine import DecodedWindow
from models.windows import Window

LEAST = 2.0  # s of speech without a word that are worth another window


def windows_to_hear_again(
    decoded: Sequence[DecodedWindow],
    words: Sequence[Word],
    regions: Sequence[SpeechRegion],
    cut: Callable[[Sequence[SpeechRegion]], Sequence[Window]],
) -> list[Window]:
    """
    Args:
        decoded, words: of the first look.
        regions: speech, in order, without overlap.
        cut: windows that hold regions.
    """
    known = {result.window for result in decoded}  # which would only say the same again
    return [
        window
        for stretch in stretches_without_words(words, regions)
        for window in cut(stretch)
        if window not in known
    ]


def with_second_look(
    words: Sequence[Word],
    again: Sequence[DecodedWindow],
    place: Callable[[Sequence[DecodedWindow]], Sequence[Word]],
) -> tuple[Word, ...]:
    """All words, in order of time.

    Args:
        words: of the first look.
        again: what the windows of the second one were decoded to.
        place: the words of what was decoded.
    """
    sure = [result for result in again if is_sure(result)]
    # At the edges of a window its padding may hold words that are known.
    found = [word for word in place(sure) if not overlaps_any(word, words)] if sure else []
    return tuple(sorted([*words, *found], key=lambda word: word.start))


def stretches_without_words(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> list[list[SpeechRegion]]:
    """The speech between two neighbouring words, or beside them, where it is at least LEAST."""
    ordered = sorted(words, key=lambda word: word.start)
    ends = np.maximum.accumulate([0.0, *(word.end for word in ordered)]).tolist()
    starts = [*(word.start for word in ordered), np.inf]
    found = []
    for begin, end in zip(ends, starts, strict=True):
        if end - begin < LEAST:
            continue
        stretch = [
            SpeechRegion(max(region.start, begin), min(region.end, end))
            for region in regions
            if region.start < end and region.end > begin
        ]
        if sum(region.duration for region in stretch) >= LEAST:
            found.append(stretch)
    return found


def is_sure(result: DecodedWindow) -> bool:
    """Not merely the last of the temperatures."""
    return result.avg_logprob >= LOGPROB and result.compression_ratio <= COMPRESSION_RATIO


def overlaps_any(word: Word, words: Sequence[Word]) -> bool:
    return any(word.start < other.end and other.start < word.end for other in words)
