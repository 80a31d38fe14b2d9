"""Short answers that Whisper put into the silence beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audio.decode import decode
from models.diarisation.segmentation import SpeechRegion
from models.options import JobOptions
from models.silent_words import move_words_into_speech
from models.transcript import Word


def word(text, start, end):
    return Word(f" {text}", start, end, 0.9)


def times(words):
    return [(word.start, word.end) for word in words]


def test_an_answer_in_the_silence_moves_to_the_wordless_speech_beside_it():
    """ "Okay." said at 15.7 s stood at 19.2 s."""
    regions = [SpeechRegion(15.6, 16.1), SpeechRegion(20.0, 21.0)]
    words = [word("Okay.", 19.2, 19.6), word("See", 20.1, 20.4)]

    assert times(move_words_into_speech(words, regions)) == [(15.6, 16.0), (20.1, 20.4)]


def test_speech_that_has_words_or_is_too_far_away_takes_no_others():
    far = [SpeechRegion(1.0, 2.0), SpeechRegion(20.0, 21.0)]
    words = [word("Okay.", 10.0, 10.4), word("See", 20.1, 20.4)]

    assert move_words_into_speech(words, far) == tuple(words)
    assert move_words_into_speech(words[1:], far[1:]) == tuple(words[1:])


def test_more_words_than_fit_into_the_speech_stay_where_they_are():
    """A cough has no sentence: the words are flagged where they stand."""
    words = [word("thank", 5.0, 5.3), word("you", 5.3, 5.5), word("all.", 5.5, 5.9)]

    assert move_words_into_speech(words, [SpeechRegion(3.0, 3.3)]) == tuple(words)


def test_words_do_not_pass_other_words():
    regions = [SpeechRegion(1.0, 1.5), SpeechRegion(3.0, 4.0)]
    words = [word("So", 3.1, 3.5), word("yes.", 5.0, 5.4)]

    assert move_words_into_speech(words, regions) == tuple(words)


def test_a_word_beside_speech_whose_words_come_later_moves_to_its_beginning():
    """ "Okay. [pause] Who wants to take notes": it stood before the region, flagged and alone."""
    regions = [SpeechRegion(24.97, 28.53)]
    words = [word("Okay.", 23.98, 24.68), word("Who", 26.04, 26.3)]

    assert times(move_words_into_speech(words, regions)) == [(24.97, 25.67), (26.04, 26.3)]


@pytest.mark.parametrize(
    ("start", "first"),
    [(23.98, 25.3), (22.5, 26.04)],
    ids=["only a breath has no word", "the speech is too far away"],
)
def test_a_word_stays_where(start, first):
    words = [word("Okay.", start, start + 0.7), word("Who", first, first + 0.2)]

    assert move_words_into_speech(words, [SpeechRegion(24.97, 28.53)]) == tuple(words)


spans = st.lists(st.integers(0, 400), min_size=0, max_size=40, unique=True).map(sorted)


@given(spans, spans)
def test_no_word_is_lost_and_their_order_stays(words, regions):
    said = [word(str(i), words[i] / 10, words[i + 1] / 10) for i in range(0, len(words) - 1, 2)]
    speech = [
        SpeechRegion(a / 10, b / 10) for a, b in zip(regions[::2], regions[1::2], strict=False)
    ]
    moved = move_words_into_speech(said, speech)

    assert [each.text for each in moved] == [each.text for each in said]
    assert all(one.end <= other.start + 0.002 for one, other in zip(moved, moved[1:], strict=False))
    assert all(each.start < each.end for each in moved)


@pytest.mark.real
def test_a_short_answer_of_a_real_meeting_stands_where_it_was_said(real_pipeline, real_recordings):
    """ "Yeah." said at 9.8 s stood at 11.5 s."""
    with (real_recordings / "conversations" / "tst01.flac").open("rb") as file:
        transcript = real_pipeline.transcribe([decode(file)], JobOptions(language="en"))

    first = transcript.words[0]
    assert first.text.strip() == "Yeah."
    assert abs(first.start - 9.8) < 0.3
    third = transcript.words[2]  # "Okay.", in the speech that is found from 24.97 s on
    assert third.text.strip() == "Okay." and third.start > 24.9
