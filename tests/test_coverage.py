from collections.abc import Sequence

import numpy as np

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.whisper_engine import DecodedWindow
from models.whisper_engine.coverage import (
    add_recovered_words,
    find_missed_windows,
    find_uncovered_speech,
)
from models.windows import Window, cut_windows
from tests.fakes import words as words_of

SILENCE = np.zeros(120 * SAMPLE_RATE, dtype=np.float32)


def decoded(window: Window, avg_logprob: float = -0.3, ratio: float = 1.2) -> DecodedWindow:
    return DecodedWindow(window, (), "", 0.0, avg_logprob, 0.0, ratio)


class FakeEngine:
    """Finds two words in the middle of each window."""

    def __init__(self, avg_logprob: float = -0.3, ratio: float = 1.2) -> None:
        self.avg_logprob, self.ratio = avg_logprob, ratio
        self.requested: list[Window] = []

    def decode(self, windows: Sequence[Window]) -> list[DecodedWindow]:
        self.requested += windows
        return [decoded(window, self.avg_logprob, self.ratio) for window in windows]

    def time_words(self, results: Sequence[DecodedWindow]) -> list[Word]:
        return [
            word
            for result in results
            for word in words_of("found again", (result.window.start + result.window.end) / 2)
        ]

    def cover(self, first, words, regions):
        windows = find_missed_windows(
            first, words, regions, lambda some: cut_windows(some, SILENCE)
        )
        return add_recovered_words(words, self.decode(windows), self.time_words)


FIRST = [decoded(Window(0.0, 30.0)), decoded(Window(30.0, 60.0))]


def test_speech_without_words_is_decoded_again_in_its_own_window():
    engine = FakeEngine()
    known = [*words_of("one two", 0.0), *words_of("three four", 40.0)]
    regions = [SpeechRegion(0.0, 0.6), SpeechRegion(10.0, 15.0), SpeechRegion(40.0, 40.6)]
    words = engine.cover(FIRST, known, regions)

    assert engine.requested == [Window(9.8, 15.2)]
    assert [word.text for word in words] == [" one", " two", " found", " again", " three", " four"]


def test_speech_with_words_is_not_decoded_again():
    engine = FakeEngine()
    known = words_of("all of it was heard", 10.0)
    regions = [SpeechRegion(10.0, 11.9), SpeechRegion(20.0, 21.5)]  # the second is too short

    assert engine.cover(FIRST, known, regions) == known
    assert engine.requested == []


def test_stretches_separated_by_words_get_separate_windows():
    engine = FakeEngine()
    regions = [SpeechRegion(0.0, 12.0)]
    engine.cover(FIRST, words_of("known", 5.0), regions)

    assert engine.requested == [Window(0.0, 5.2), Window(5.1, 12.2)]


def test_a_window_that_stayed_empty_is_not_decoded_again():
    engine = FakeEngine()
    regions = [SpeechRegion(0.2, 29.8)]
    first = [decoded(Window(0.0, 30.0))]

    assert engine.cover(first, [], regions) == ()
    assert engine.requested == []


def test_improbable_and_repetitive_words_are_rejected():
    regions = [SpeechRegion(10.0, 15.0)]
    for engine in (FakeEngine(avg_logprob=-1.5), FakeEngine(ratio=3.0)):
        assert engine.cover(FIRST, (), regions) == ()
        assert len(engine.requested) == 1


def test_a_known_word_in_the_padding_is_not_added_twice():
    class EngineWithWordInPadding(FakeEngine):
        def time_words(self, results):
            return [*words_of("known", 9.75), *words_of("new", 11.0)]

    known = words_of("known", 9.7)
    words = EngineWithWordInPadding().cover(FIRST, known, [SpeechRegion(9.7, 14.0)])

    assert [word.text for word in words] == [" known", " new"]


def test_uncovered_speech_is_measured_between_words_and_across_pauses():
    regions = [SpeechRegion(1.0, 2.2), SpeechRegion(4.0, 5.0), SpeechRegion(8.0, 9.5)]
    known = words_of("here", 6.0)

    assert find_uncovered_speech(known, regions) == [regions[:2]]
