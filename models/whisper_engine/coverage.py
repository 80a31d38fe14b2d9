"""A second pass over speech that got no words.

Whisper sometimes skips speech: it ends a window's text early, or takes a quiet voice for silence.
Such a stretch is decoded once more, in separate windows. If it again gets no words, or only
improbable ones, it stays empty and is flagged (models/quality.py): nothing is invented to fill it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.whisper_engine.decoder import COMPRESSION_RATIO_THRESHOLD, LOGPROB_THRESHOLD
from models.whisper_engine.engine import DecodedWindow
from models.windows import Window

MIN_UNCOVERED = 2.0  # s of speech without a word that justify another window


def find_missed_windows(
    decoded: Sequence[DecodedWindow],
    words: Sequence[Word],
    regions: Sequence[SpeechRegion],
    cut: Callable[[Sequence[SpeechRegion]], Sequence[Window]],
) -> list[Window]:
    """The windows to decode in the second pass.

    Args:
        decoded, words: of the first pass.
        regions: speech, in order, without overlap.
        cut: cuts windows around regions.
    """
    known = {result.window for result in decoded}  # decoding them again gives the same
    return [
        window
        for stretch in find_uncovered_speech(words, regions)
        for window in cut(stretch)
        if window not in known
    ]


def add_recovered_words(
    words: Sequence[Word],
    second: Sequence[DecodedWindow],
    time_words: Callable[[Sequence[DecodedWindow]], Sequence[Word]],
) -> tuple[Word, ...]:
    """All words, by start.

    Args:
        words: of the first pass.
        second: the decoded windows of the second pass.
        time_words: gives the words of decoded windows.
    """
    reliable = [result for result in second if is_reliable(result)]
    recovered = time_words(reliable) if reliable else ()
    # The padding at the edges of a window may hold words of the first pass.
    found = [word for word in recovered if not overlaps_any(word, words)]
    return tuple(sorted([*words, *found], key=lambda word: word.start))


def find_uncovered_speech(
    words: Sequence[Word], regions: Sequence[SpeechRegion]
) -> list[list[SpeechRegion]]:
    """The stretches of speech before, between or after words that last at least MIN_UNCOVERED."""
    ordered = sorted(words, key=lambda word: word.start)
    ends = np.maximum.accumulate([0.0, *(word.end for word in ordered)]).tolist()
    starts = [*(word.start for word in ordered), np.inf]
    found = []
    for begin, end in zip(ends, starts, strict=True):
        if end - begin < MIN_UNCOVERED:
            continue
        stretch = [
            SpeechRegion(max(region.start, begin), min(region.end, end))
            for region in regions
            if region.start < end and region.end > begin
        ]
        if sum(region.duration for region in stretch) >= MIN_UNCOVERED:
            found.append(stretch)
    return found


def is_reliable(result: DecodedWindow) -> bool:
    """Whether the text passed; the one of the last temperature is kept even if it did not."""
    return (
        result.avg_logprob >= LOGPROB_THRESHOLD
        and result.compression_ratio <= COMPRESSION_RATIO_THRESHOLD
    )


def overlaps_any(word: Word, words: Sequence[Word]) -> bool:
    return any(word.start < other.end and other.start < word.end for other in words)
