import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.error_rates import ErrorRate, bootstrap_interval, sum_rates
from models.metrics import (
    Spoken,
    TimedText,
    count_errors,
    cp_word_errors,
    diarisation_parts,
    invented_seconds,
    merge_intervals,
    seconds_without_words,
    speaker_errors,
    subtract_intervals,
    tcp_word_errors,
    time_errors,
    turn_speaker_errors,
    word_errors,
)
from models.transcript import Turn

QUESTION = Spoken("I", 0.0, 1.5, "Where do you work?")
ANSWER = Spoken("P", 2.0, 4.0, "At the clinic, since March.")


def test_rates_are_summed_before_they_are_divided():
    assert sum_rates([ErrorRate(1, 10), ErrorRate(0, 90)]).rate == 0.01


def test_case_and_punctuation_are_no_word_errors():
    assert word_errors("Where do you work?", "where do you work") == ErrorRate(0, 4)


def test_all_words_are_errors_if_the_reference_is_empty():
    assert word_errors("", "thank you for watching") == ErrorRate(4, 0)


def test_languages_without_spaces_are_counted_in_characters():
    assert word_errors("我在医院", "我在学院", "zh") == ErrorRate(1, 4)


def test_the_names_of_speakers_do_not_matter_to_cpwer():
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")
    renamed = [Spoken("SPEAKER_01", 0.0, 1.5, QUESTION.text), Spoken("B", 2.0, 4.0, ANSWER.text)]

    assert cp_word_errors([QUESTION, ANSWER], renamed) == ErrorRate(0, 9)
    assert tcp_word_errors([QUESTION, ANSWER], renamed) == ErrorRate(0, 9)


def test_a_word_with_the_wrong_speaker_is_two_errors_of_cpwer_and_none_of_wer():
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")
    late = [
        Spoken("A", 0.0, 2.2, "Where do you work? At"),
        Spoken("B", 2.2, 4.0, "the clinic, since March."),
    ]

    assert word_errors("Where do you work? At", "where do you work at").errors == 0
    assert cp_word_errors([QUESTION, ANSWER], late) == ErrorRate(2, 9)
    assert speaker_errors([QUESTION, ANSWER], late) == (ErrorRate(1, 9), ErrorRate(0, 9))


def test_tcpwer_does_not_match_words_far_apart():
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")
    elsewhere = Spoken("A", 60.0, 61.5, QUESTION.text)

    assert cp_word_errors([QUESTION], [elsewhere]) == ErrorRate(0, 4)
    assert tcp_word_errors([QUESTION], [elsewhere]) == ErrorRate(8, 4)


def test_words_without_a_speaker_are_counted_separately():
    nobody = Spoken(None, 0.0, 1.5, QUESTION.text)

    assert speaker_errors([QUESTION, ANSWER], [nobody, ANSWER]) == (
        ErrorRate(0, 9),
        ErrorRate(4, 9),
    )


def test_words_without_a_speaker_in_the_reference_do_not_count():
    """They used to count as another speaker, whom the hypothesis had missed."""
    nobody = Spoken(None, 0.0, 1.5, QUESTION.text)
    all_one = [Spoken("A", 0.0, 4.0, f"{QUESTION.text} {ANSWER.text}")]

    assert speaker_errors([nobody, ANSWER], all_one) == (ErrorRate(0, 5), ErrorRate(0, 5))
    assert speaker_errors([nobody, ANSWER], [nobody, ANSWER]) == (ErrorRate(0, 5), ErrorRate(0, 5))


def test_all_words_of_a_surplus_speaker_are_wrong():
    parts = [Spoken("A", 0.0, 1.5, QUESTION.text), *_split(ANSWER, "B", "C")]

    assert speaker_errors([QUESTION, ANSWER], parts)[0] == ErrorRate(2, 9)
    turns = [Turn(part.start, part.end, str(part.speaker)) for part in parts]
    assert count_errors([Turn(0, 1, "I"), Turn(2, 4, "P")], turns) == ErrorRate(1, 2)


def _split(spoken: Spoken, *speakers: str) -> list[Spoken]:
    words = spoken.text.split()
    return [
        Spoken(speakers[0], spoken.start, 3.0, " ".join(words[:3])),
        Spoken(speakers[1], 3.0, spoken.end, " ".join(words[3:])),
    ]


def test_without_recognised_words_there_are_no_speaker_errors():
    assert speaker_errors([QUESTION], []) == (ErrorRate(0, 0), ErrorRate(0, 0))


def test_in_languages_without_spaces_characters_have_speakers_and_times():
    """A sentence used to be one word, so hardly any was recognised correctly: 0 of 0 were wrong."""
    reference = [Spoken("I", 0.0, 1.0, "你好吗？"), Spoken("P", 1.0, 2.0, "我在医院。")]
    hypothesis = [Spoken("A", 0.0, 1.5, "你好吗我"), Spoken("B", 1.5, 2.0, "在医院")]

    assert speaker_errors(reference, hypothesis, "zh") == (ErrorRate(1, 7), ErrorRate(0, 7))
    words = [TimedText("我", 0.0, 0.5), TimedText("在", 0.5, 1.0), TimedText("医院。", 2.0, 3.0)]
    found = [TimedText("我在", 0.0, 1.0), TimedText("学院", 2.5, 3.5)]
    assert time_errors(words, found, "zh") == ErrorRate(1, 3)


def test_words_that_differ_in_vowel_signs_are_different_words():
    """Hindi's vowel signs are marks, not letters."""
    said, misheard = [Spoken("I", 0.0, 1.0, "दिन भर")], [Spoken("A", 0.0, 1.0, "दान भर।")]

    assert speaker_errors(said, misheard, "hi")[0] == ErrorRate(0, 1)
    composed, apart = [Spoken("I", 0.0, 1.0, "für")], [Spoken("A", 0.0, 1.0, "fu\u0308r")]
    assert speaker_errors(composed, apart, "de")[0] == ErrorRate(0, 1)


def test_punctuation_is_no_word():
    dash, dots = [TimedText("-", 0.0, 0.1)], [TimedText("...", 7.0, 7.1)]

    assert time_errors(dash, dots) == ErrorRate(0, 0)


def test_diarisation_errors_come_with_their_parts():
    reference = [Turn(0.0, 4.0, "I"), Turn(4.0, 8.0, "P")]
    hypothesis = [Turn(1.0, 5.0, "A"), Turn(5.0, 9.0, "B")]
    parts = diarisation_parts(reference, hypothesis)

    assert {name: part.errors for name, part in parts.items()} == {
        "error": pytest.approx(3.0),
        "missed detection": pytest.approx(1.0),
        "confusion": pytest.approx(1.0),
        "false alarm": pytest.approx(1.0),
    }
    assert parts["error"].total == pytest.approx(8.0)
    forgiving = diarisation_parts(reference, hypothesis, collar=2.0, skip_overlap=True)
    assert forgiving["error"].errors == pytest.approx(0.0)


def test_overlapping_turns_of_one_speaker_count_once():
    """A perfect result counted as wrong where two turns of one speaker overlapped."""
    reference = [Turn(0.0, 10.0, "P"), Turn(9.5, 14.0, "P"), Turn(12.0, 20.0, "I")]
    hypothesis = [Turn(0.0, 14.0, "A"), Turn(12.0, 20.0, "B"), Turn(12.0, 20.0, "B")]

    for some, others in ((reference, hypothesis), (hypothesis, reference)):
        error = diarisation_parts(some, others)["error"]
        assert error.errors == pytest.approx(0.0)
        assert error.total == pytest.approx(22.0)
        forgiving = diarisation_parts(some, others, collar=0.5, skip_overlap=True)["error"]
        assert forgiving.errors == pytest.approx(0.0)
        assert forgiving.total == pytest.approx(12.0 - 0.5 + 6.0 - 0.5)


def test_speech_without_words_is_counted_in_seconds():
    turns = [Turn(0.0, 10.0, "I"), Turn(20.0, 21.0, "P")]
    words = [TimedText("so", 0.2, 0.5), TimedText("then", 9.0, 9.5)]

    assert seconds_without_words(turns, words) == ErrorRate(8.5, 11.0)


def test_words_outside_speech_are_counted_in_seconds():
    words = [TimedText("so", 0.2, 0.5), TimedText("thanks", 30.0, 31.0)]

    assert invented_seconds([Turn(0.0, 10.0, "I")], words, 60.0) == ErrorRate(1.0, 49.5)
    assert invented_seconds([], [], 60.0) == ErrorRate(0.0, 60.0)


def test_the_interval_contains_the_rate_and_narrows_with_more_recordings():
    rates = [ErrorRate(errors, 100) for errors in (10, 20, 30, 40)]
    few, many = bootstrap_interval(rates), bootstrap_interval(rates * 25)

    assert few is not None and many is not None
    assert few[0] < many[0] < 0.25 < many[1] < few[1]


def test_two_recordings_have_no_interval():
    assert bootstrap_interval([ErrorRate(1, 10), ErrorRate(2, 10)]) is None


pieces = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 10)).map(lambda p: (p[0], p[0] + p[1])), max_size=8
)


@given(pieces, pieces)
def test_subtracting_intervals_equals_counting_tenths(some, others):
    def tenths(intervals):
        return {t for a, b in intervals for t in range(round(a * 10), round(b * 10))}

    left = subtract_intervals(merge_intervals(some), merge_intervals(others))
    assert tenths(left) == tenths(some) - tenths(others)
    assert sum(b - a for a, b in left) * 10 == len(tenths(left))


def test_words_are_compared_with_turns_where_no_reference_has_words():
    turns = [Turn(0.0, 2.0, "Ann"), Turn(1.5, 4.0, "Ben"), Turn(8.0, 9.0, "Cem")]
    words = [
        TimedText("a", 0.0, 0.5, "S0"),
        TimedText("b", 1.6, 1.9, "S0"),  # both talk
        TimedText("c", 2.2, 2.5, "S0"),  # only Ben does
        TimedText("d", 2.5, 3.0, "S1"),
        TimedText("e", 3.0, 3.5, "S1"),
        TimedText("f", 5.0, 5.5, "S1"),  # nobody does
        TimedText("g", 8.0, 8.5),
        TimedText("h", 8.5, 9.0, "S1"),
    ]

    assert turn_speaker_errors(turns, words) == (ErrorRate(2, 7), ErrorRate(1, 7))
    assert turn_speaker_errors([], words) == (ErrorRate(0, 0), ErrorRate(0, 0))
    assert turn_speaker_errors(turns, []) == (ErrorRate(0, 0), ErrorRate(0, 0))
