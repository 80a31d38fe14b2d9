import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.quality import check, speech_before
from models.segmentation import SpeechRegion
from models.transcript import Segment, Word
from models.whisper_engine import DecodedWindow
from models.windows import Window
from tests.fakes import segment


def decoded(compression_ratio: float = 1.2) -> DecodedWindow:
    return DecodedWindow(Window(0.0, 20.0), (), "", 0.0, -0.3, 0.01, compression_ratio)


def kinds(*arguments):
    return [flag.kind for flag in check(*arguments)]


def test_a_clean_transcript_has_no_flags():
    said = segment("A", "all of this was said", start=1.0)

    assert check([said], [SpeechRegion(0.9, 2.6)], [decoded()]) == ()


def test_speech_without_words_is_flagged_with_its_seconds():
    said = segment("A", "only this", start=1.0)  # ends at 1.6
    (flag,) = check([said], [SpeechRegion(1.0, 9.6)], [decoded()])

    assert (flag.kind, flag.start, flag.end) == ("speech_without_words", 1.6, 9.6)
    assert flag.evidence == {"speech_seconds": pytest.approx(8.0)}


def test_speech_before_the_first_and_without_any_word_is_flagged_too():
    said = segment("A", "only this", start=10.0)
    flags = check([said], [SpeechRegion(5.0, 10.6), SpeechRegion(20.0, 24.0)], [decoded()])

    assert [(flag.start, flag.end) for flag in flags] == [(5.0, 10.0), (20.0, 24.0)]


def test_words_where_nobody_speaks_are_kept_and_flagged():
    said = segment("A", "thank you for watching", start=50.0)

    assert kinds([said], [SpeechRegion(0.0, 1.0)], [decoded()]) == ["words_without_speech"]


def test_a_loop_is_flagged_by_its_compression_ratio():
    assert kinds([], [], [decoded(compression_ratio=5.0)]) == ["loop"]


def test_improbable_words_are_flagged():
    unsure = Segment("A", 0.0, 1.0, (Word(" maybe", 0.0, 1.0, 0.2),))

    assert kinds([unsure], [SpeechRegion(0.0, 1.0)], [decoded()]) == ["low_probability"]


def test_words_faster_than_anybody_speaks_are_flagged():
    fast = tuple(Word(" a", i * 0.1, i * 0.1 + 0.1, 0.9) for i in range(20))

    assert kinds([Segment("A", 0.0, 2.0, fast)], [SpeechRegion(0.0, 2.0)], [decoded()]) == [
        "too_fast"
    ]


@given(
    edges=st.lists(st.integers(0, 1000), max_size=12, unique=True).map(sorted),
    times=st.lists(st.integers(0, 1000), max_size=12),
)
def test_speech_is_counted_as_by_looking_at_every_region(edges, times):
    regions = [SpeechRegion(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    counted = [sum(max(0, min(t, r.end) - r.start) for r in regions) for t in times]

    assert speech_before(np.array(times, dtype=float), regions) == pytest.approx(counted)
