"""Corrected texts aligned with their words: nothing moves that was not changed."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retiming import merge_texts, retime, tokenise
from models.transcript import Word, text_of
from tests.fakes import words

SAID = words("Well, I was at the peer clinic.", gap=0.1)


def timed(*texts, start=0.0):
    return tuple(Word(text, start + i, start + i + 0.9, 0.5) for i, text in enumerate(texts))


def fix(own, text):
    return retime(own, text, own[0].start, max(word.end for word in own))


def test_an_unchanged_text_has_the_same_words():
    assert fix(SAID, "Well,  I was at the peer clinic. ") == SAID


def test_one_word_for_another_keeps_the_interval_but_not_the_probability():
    fixed = fix(SAID, "Well, I was at the beer clinic.")

    assert fixed[:5] + fixed[6:] == SAID[:5] + SAID[6:]
    assert fixed[5] == Word(" beer", SAID[5].start, SAID[5].end, None, placed=True)


def test_case_and_punctuation_keep_time_and_probability():
    fixed = fix(SAID, "well I was at the Peer clinic?")

    assert [word.text for word in fixed][:2] == [" well", " I"]
    assert [(w.start, w.end, w.probability) for w in fixed] == [
        (w.start, w.end, w.probability) for w in SAID
    ]


def test_an_inserted_word_lies_in_the_gap_between_its_neighbours():
    fixed = fix(SAID, "Well, I really was at the peer clinic.")

    assert (fixed[2].start, fixed[2].end) == (SAID[1].end, SAID[2].start)
    assert fixed[:2] + fixed[3:] == SAID


def test_where_there_is_no_gap_an_inserted_word_shares_the_interval_of_its_neighbour():
    dense = words("I was there.")
    fixed = fix(dense, "I really was there.")

    assert fixed[0] == dense[0] and fixed[2:] == dense[1:]
    assert dense[0].start < fixed[1].start <= fixed[1].end <= dense[0].end


def test_several_words_for_fewer_share_their_interval_by_length():
    fixed = fix(timed(" the", " newcastle"), "the New Castle-upon-Tyne Hospital")

    assert fixed[0] == Word(" the", 0.0, 0.9, 0.5)
    assert [word.text for word in fixed[1:]] == [" New", " Castle-upon-Tyne", " Hospital"]
    assert (fixed[1].start, fixed[3].end) == (1.0, 1.9)
    assert fixed[2].end - fixed[2].start > fixed[3].end - fixed[3].start


def test_a_word_that_whisper_split_is_kept_whole():
    said = timed(" a", " peer", "-led", ",", " group")

    assert fix(said, "a peer-led, groups")[:4] == said[:4]
    assert fix(said, "a peer-led group") == (*said[:3], said[4])
    joined = fix(said, "a peer-led. group")
    assert [word.text for word in joined] == [" a", " peer", "-led.", " group"]
    assert [word.start for word in joined] == [0.0, 1.0, 2.0, 4.0]


def test_chinese_is_aligned_by_character():
    said = timed("今天", "天气", "很", "好")
    fixed = fix(said, "今天气候很好")

    assert text_of(fixed) == "今天气候很好"
    assert fixed[-2:] == said[-2:]
    assert fix(said, "今天天气不好")[:2] == said[:2]


def test_thai_marks_stay_with_their_letters():
    assert [token.text for token in tokenise("ที่นี่ ok")] == ["ที่", "นี่", "ok"]


def test_indian_vowel_signs_are_not_punctuation():
    said = timed(" यह", " का")

    assert fix(said, "यह की")[1].probability is None


def test_a_text_for_no_words_fills_the_segment():
    fixed = retime((), "Yes, exactly.", 4.0, 6.0)

    assert [word.text for word in fixed] == [" Yes,", " exactly."]
    assert (fixed[0].start, fixed[-1].end) == (4.0, 6.0)


def test_an_empty_text_has_no_words():
    assert fix(SAID, "") == ()


VOCABULARY = [
    "the",
    "The",
    "the,",
    "cat",
    "sat",
    "mat",
    "peer-led",
    "—",
    "𝄞",
    "ok😀",
    "今",
    "天气",
    "x.",
]
TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)


@st.composite
def spoken(draw):
    """Words in order of their starts, some of them in pieces, some overlapping."""
    time, said = 0.0, list[Word]()
    for text in draw(st.lists(st.sampled_from(VOCABULARY), max_size=12)):
        time = round(time + draw(st.sampled_from([0.0, 0.013, 0.4, 2.0])), 3)
        length = draw(st.sampled_from([0.0, 0.02, 0.5]))
        glued = draw(st.booleans()) and said
        said.append(Word(text if glued else f" {text}", time, round(time + length, 3), 0.7))
    return tuple(said)


@settings(max_examples=300, deadline=None)
@given(spoken(), TEXTS)
def test_any_text_keeps_the_order_and_the_words_that_it_shares(said, text):
    start = said[0].start if said else 1.0
    end = max((word.end for word in said), default=3.0)
    fixed = retime(said, text, start, end)

    assert text_of(fixed) == text or text == " ".join(text_of(said).split())
    assert all(a.start <= b.start for a, b in pairwise(fixed))
    assert all(start <= word.start <= word.end <= end for word in fixed)
    times = iter([(word.start, word.end, word.probability) for word in said])
    heard = [word for word in fixed if not word.placed and word.probability == 0.7]
    assert all(word.probability is None for word in fixed if word.placed)
    n_joined = sum(len(word.text.split()) > 1 for word in fixed)
    if n_joined == 0 and not any("-" in word.text or word.text[:1] != " " for word in said):
        assert all((word.start, word.end, word.probability) in times for word in heard)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.data())
def test_a_correction_of_some_words_moves_no_other(n, data):
    texts = [f"{VOCABULARY[i]}{i}" for i in range(n)]
    said = tuple(Word(f" {text}", i * 0.5, i * 0.5 + 0.3, 0.7) for i, text in enumerate(texts))
    first = data.draw(st.integers(0, len(texts)))
    last = data.draw(st.integers(first, len(texts)))
    written = data.draw(st.lists(st.sampled_from(["new", "words", "here"]), max_size=3))
    fixed = fix(said, " ".join([*texts[:first], *written, *texts[last:]]))

    assert fixed[:first] == said[:first]
    assert fixed[len(fixed) - (len(said) - last) :] == said[last:]


@pytest.mark.parametrize(
    ("theirs", "mine", "merged"),
    [
        ("I saw Anna at the clinic.", "I met Bob at the clinic.", None),
        ("I saw Eva at the clinic.", "I met Eva at the hospital.", "I saw Eva at the hospital."),
        ("I met Eva at the clinic. So.", "We met Eva at the clinic.", "We met Eva at the clinic. So."),  # noqa: E501
        ("I met Eva at a clinic.", "I met Eva at a clinic.", "I met Eva at a clinic."),
        ("I met Eva at the clinic. Yes.", "I met Eva at the clinic. No.", None),
        ("", "We met Eva at the clinic.", None),
    ],
)  # fmt: skip
def test_two_corrections_merge_where_they_change_different_words(theirs, mine, merged):
    assert merge_texts("I met Eva at the clinic.", theirs, mine) == merged
