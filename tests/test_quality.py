from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.diarisation.segmentation import SpeechRegion
from models.quality import find_flags, flag_few_words, speech_before
from models.transcript import Segment, Word
from models.whisper_engine import DecodedWindow
from models.windows import Window
from tests.fakes import segment


def decoded(compression_ratio: float = 1.2) -> DecodedWindow:
    return DecodedWindow(Window(0.0, 20.0), (), "", 0.0, -0.3, 0.01, compression_ratio)


def kinds(segments, regions, decoded):
    return [flag.kind for flag in find_flags(segments, regions, decoded, "en")]


def test_a_clean_transcript_has_no_flags():
    said = segment("A", "all of this was said", start=1.0)

    assert find_flags([said], [SpeechRegion(0.9, 2.6)], [decoded()], "en") == ()


def test_speech_without_words_is_flagged_with_its_seconds():
    said = segment("A", "only this", start=1.0)  # ends at 1.6
    (flag,) = find_flags([said], [SpeechRegion(1.0, 9.6)], [decoded()], "en")

    assert (flag.kind, flag.start, flag.end) == ("speech_without_words", 1.6, 9.6)
    assert flag.evidence == {"speech_seconds": pytest.approx(8.0)}


def test_speech_before_the_first_word_and_in_a_region_without_words_is_flagged():
    said = segment("A", "only this", start=10.0)
    flags = find_flags(
        [said], [SpeechRegion(5.0, 10.6), SpeechRegion(20.0, 24.0)], [decoded()], "en"
    )

    assert [(flag.start, flag.end) for flag in flags] == [(5.0, 10.0), (20.0, 24.0)]


def one_word(text: str, start: float, end: float) -> Segment:
    return Segment("A", start, end, (Word(f" {text}", start, end, 0.9),))


def test_a_single_word_for_a_whole_sentence_is_flagged_even_without_a_gap():
    """Whisper wrote "Mm." for "The social worker challenged the other staff on Friday."

    It was not flagged, because the speech on either side of the word was too short to be a gap.
    """
    sentence = [SpeechRegion(27.3, 28.0), SpeechRegion(28.1, 30.4)]
    before, after = segment("A", "I was grateful that night", 25.0), segment("A", "Yes I do", 31.0)
    regions = [SpeechRegion(25.0, 26.5), *sentence, SpeechRegion(31.0, 31.9)]
    said = [before, one_word("Mm.", 27.9, 29.2), after]
    (flag,) = find_flags(said, regions, [decoded()], "en")

    assert (flag.kind, flag.start, flag.end) == ("few_words", 27.9, 31.0)
    assert flag.evidence == {"words": 1, "speech_seconds": 2.4}


def test_words_drawn_out_over_two_sentences_are_flagged_together():
    said = [one_word("Mm.", 1.0, 2.4), one_word("Yeah.", 3.9, 5.3)]
    (flag,) = find_flags(said, [SpeechRegion(1.0, 3.5), SpeechRegion(3.9, 6.6)], [decoded()], "en")

    assert (flag.kind, flag.start, flag.end) == ("few_words", 1.0, 6.6)
    assert flag.evidence == {"words": 2, "speech_seconds": 5.2}


def test_back_channels_slow_answers_and_long_pauses_are_not_flagged():
    slow = Segment("A", 10.0, 17.0, tuple(Word(" and", 10.0 + i, 10.5 + i, 0.9) for i in range(7)))
    said = [one_word("Mm.", 1.0, 1.6), one_word("Yes.", 4.5, 5.2), slow]
    regions = [SpeechRegion(1.0, 2.2), SpeechRegion(4.3, 5.4), SpeechRegion(10.0, 17.0)]

    assert find_flags(said, regions, [decoded()], "en") == ()


def test_speech_without_words_is_not_flagged_again_for_the_word_beside_it():
    said = segment("A", "only this", start=1.0)

    assert kinds([said], [SpeechRegion(0.9, 9.6)], [decoded()]) == ["speech_without_words"]


@given(
    edges=st.lists(st.integers(0, 200), max_size=12, unique=True).map(sorted),
    starts=st.lists(st.integers(0, 200), max_size=12).map(sorted),
)
def test_stretches_flagged_for_few_words_have_few_words(edges, starts):
    regions = [SpeechRegion(a / 2, b / 2) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    words = [Word(" a", start / 2, start / 2 + 0.4, 0.9) for start in starts]
    flags = list(flag_few_words(words, regions))

    for flag in flags:
        inside = [w for w in words if flag.start <= w.start + 0.2 < flag.end]
        n_words, seconds = (float(flag.evidence[name]) for name in ("words", "speech_seconds"))
        assert n_words / seconds < 0.7
        assert 1 <= n_words <= len(inside) + 1
        assert 2.0 <= seconds <= flag.end - flag.start + 0.01
    assert all(a.end <= b.start for a, b in pairwise(flags))


def test_words_where_nobody_speaks_are_kept_and_flagged():
    said = segment("A", "thank you for watching", start=50.0)

    assert kinds([said], [SpeechRegion(0.0, 1.0)], [decoded()]) == ["words_without_speech"]


def test_a_loop_is_flagged_by_its_compression_ratio():
    assert kinds([], [], [decoded(compression_ratio=5.0)]) == ["loop"]


def test_a_window_in_another_language_is_flagged_with_that_language():
    own = replace(decoded(), language="nl", language_probability=0.93)
    same = replace(decoded(), language="en", language_probability=0.95)
    (flag,) = find_flags([], [], [own, same], "en")

    assert (flag.kind, flag.evidence) == ("other_language", {"language": "nl", "probability": 0.93})


def test_a_window_whose_language_is_not_clear_is_flagged():
    unclear = replace(decoded(), language="en", language_probability=0.41)
    (flag,) = find_flags([], [], [unclear], "en")

    assert (flag.kind, flag.evidence) == (
        "unsure_language",
        {"language": "en", "probability": 0.41},
    )


def test_a_window_that_failed_at_every_temperature_is_flagged_with_its_evidence():
    """Its words used to look as sure as any others."""
    failed = replace(decoded(), text="maybe", avg_logprob=-1.3, temperature=1.0)
    (flag,) = find_flags([], [], [failed], "en")

    assert (flag.kind, flag.evidence) == (
        "improbable_window",
        {"avg_logprob": -1.3, "usual": -1.3, "temperature": 1.0},
    )


def test_a_window_that_whisper_takes_for_silence_is_flagged_once():
    """Music got the word "you"."""
    music = replace(decoded(), text="you", avg_logprob=-1.19, no_speech_prob=0.9)
    (flag,) = find_flags([], [], [music], "en")

    assert (flag.kind, flag.evidence) == (
        "taken_for_silence",
        {"avg_logprob": -1.19, "no_speech_prob": 0.9},
    )


def test_a_window_far_less_probable_than_the_others_is_flagged():
    usual = [replace(decoded(), text="yes", avg_logprob=-0.2 - i / 100) for i in range(4)]
    unusual = replace(decoded(), text="no", avg_logprob=-0.7)

    (flag,) = find_flags([], [], [*usual, unusual], "en")
    assert flag.evidence == {"avg_logprob": -0.7, "usual": -0.22, "temperature": 0.0}
    assert find_flags([], [], [usual[0], unusual], "en") == ()  # too few to know what is usual


def test_words_that_start_at_the_same_moment_are_flagged():
    """Six words within 0.02 s of each other used to pass unnoticed."""
    crammed = tuple(Word(" w", 1.0 + i / 300, 1.1, 0.9) for i in range(6))
    said = Segment("A", 0.5, 1.5, (Word(" we", 0.5, 0.9, 0.9), *crammed))
    (flag,) = find_flags([said], [SpeechRegion(0.5, 1.5)], [decoded()], "en")

    assert (flag.kind, flag.start, flag.end) == ("crammed_words", 1.0, 1.1)
    assert flag.evidence == {"words": 6, "seconds": 0.017}


def test_improbable_words_are_flagged():
    unsure = Segment("A", 0.0, 1.0, (Word(" maybe", 0.0, 1.0, 0.2),))

    assert kinds([unsure], [SpeechRegion(0.0, 1.0)], [decoded()]) == ["low_probability"]


def test_words_faster_than_people_speak_are_flagged():
    fast = tuple(Word(" a", i * 0.1, i * 0.1 + 0.1, 0.9) for i in range(20))

    assert kinds([Segment("A", 0.0, 2.0, fast)], [SpeechRegion(0.0, 2.0)], [decoded()]) == [
        "too_fast"
    ]


@given(
    edges=st.lists(st.integers(0, 1000), max_size=12, unique=True).map(sorted),
    times=st.lists(st.integers(0, 1000), max_size=12),
)
def test_speech_before_a_time_equals_the_sum_over_all_regions(edges, times):
    regions = [SpeechRegion(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    counted = [sum(max(0, min(t, r.end) - r.start) for r in regions) for t in times]

    assert speech_before(np.array(times, dtype=float), regions) == pytest.approx(counted)
