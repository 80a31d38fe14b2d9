"""Clean wording, pauses, overlaps and punctuation: what they change, and what they leave alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.transcript import Overlap, Segment, Transcript, Turn
from service.exports import ExportOptions, Format, Label, render
from service.exports.options import Notation, Timestamps, Wording
from service.exports.wording import (
    clean,
    find_pauses,
    is_right_to_left,
    one_line,
    pause_mark,
    with_overlaps,
    with_pauses,
    with_punctuation,
)
from tests.export_cases import CASES
from tests.fakes import segment, transcript, words


def said(text: str, language: str = "en") -> Transcript:
    return transcript([segment("P07", text)], language=language)


def cleaned(text: str, language: str = "en") -> str:
    return clean(said(text, language)).segments[0].text


# --- clean ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verbatim", "wanted"),
    [
        ("Um, I was a nurse.", "I was a nurse."),
        ("Um, we left.", "We left."),
        ("I was, um, tired.", "I was tired."),
        ("I was, uh tired.", "I was, tired."),
        ("I was tired, um.", "I was tired."),
        ("I I I was there.", "I was there."),
        ("I was I was there.", "I was there."),
        ("I wen- went to the hos- hospital.", "I went to the hospital."),
        ("It was very very hard.", "It was very very hard."),
        ("No no, he had had enough.", "No no, he had had enough."),
        ("The mother-in-law is a well- known one.", "The mother-in-law is a well- known one."),
        ("I was there, I was tired.", "I was there, I was tired."),
    ],
)
def test_hesitations_and_false_starts_are_left_out(verbatim, wanted):
    assert cleaned(verbatim) == wanted


def test_numbers_that_are_said_twice_stay():
    """A telephone number has the same figure twice in a row."""
    assert cleaned("It is 0 4 4 3 3.") == "It is 0 4 4 3 3."
    assert cleaned("It is nine nine seven seven.") == "It is nine nine seven seven."


@pytest.mark.parametrize(
    ("language", "verbatim", "wanted"),
    [
        ("de", "Äh, ich war ähm müde.", "Ich war müde."),
        ("fr", "Euh, j'étais fatigué.", "J'étais fatigué."),
        ("es", "Eh, yo estaba cansado.", "Yo estaba cansado."),
        ("de", "Er war um acht da.", "Er war um acht da."),
    ],
)
def test_each_language_has_its_own_hesitations(language, verbatim, wanted):
    assert cleaned(verbatim, language) == wanted


@pytest.mark.parametrize("text", ["Mhm.", "Uh-huh.", "Mm-hm.", "Yeah.", "Hm."])
def test_an_answer_that_is_a_sound_stays(text):
    assert cleaned(text) == text


def test_a_turn_of_nothing_but_hesitations_stays():
    assert cleaned("Um, uh.") == "Um, uh."


@given(st.lists(st.sampled_from("I was um, uh very Um. the the- went no 3 hospital.".split())))
def test_cleaning_moves_no_word_and_adds_none(texts):
    made = said(" ".join(texts) or "Yes.")
    times = {(word.start, word.end) for word in made.words}
    left = clean(made)

    assert left.words and {(word.start, word.end) for word in left.words} <= times
    assert [word.start for word in left.words] == sorted(word.start for word in left.words)


def test_verbatim_is_the_default():
    text = render(said("Um, I I was."), Format.TXT, Label(session="INT-07")).decode()

    assert "P07: Um, I I was." in text


# --- pauses and overlaps --------------------------------------------------------------------------


def test_pauses_are_measured_between_turns_of_anybody():
    made = transcript(
        [segment("A", "One."), segment("B", "Two.", 9.0)],
        turns=(Turn(0.0, 4.0, "A"), Turn(3.0, 5.0, "B"), Turn(9.0, 10.0, "B")),
    )

    assert find_pauses(made, 1.0) == [(5.0, 9.0)]
    assert find_pauses(made, 4.5) == []


def test_a_pause_is_marked_after_the_last_word_before_it():
    made = transcript(
        [Segment("A", 0.0, 9.0, (*words("one two"), *words("three", 8.0)))],
        turns=(Turn(0.0, 1.0, "A"), Turn(7.5, 9.0, "A")),
    )
    marked = with_pauses(made, 1.0, Notation.JEFFERSON)

    assert marked.segments[0].text == "one two (6.5) three"


@pytest.mark.parametrize(
    ("seconds", "jefferson", "dresing_pehl"),
    [
        (1.2, "(1.2)", "(.)"),
        (2.4, "(2.4)", "(..)"),
        (3.0, "(3.0)", "(...)"),
        (64.0, "(64.0)", "(64)"),
    ],
)
def test_each_notation_writes_a_pause_its_own_way(seconds, jefferson, dresing_pehl):
    """Jefferson 2004: seconds and tenths. Dresing and Pehl: a dot a second up to three."""
    assert pause_mark(seconds, Notation.JEFFERSON) == jefferson
    assert pause_mark(seconds, Notation.DRESING_PEHL) == dresing_pehl


def test_marks_enclose_exactly_the_words_in_an_overlap():
    made = transcript(
        [segment("A", "one two three four")], overlaps=(Overlap(0.35, 0.95, ("A", "B"), ("B",)),)
    )

    jefferson = with_overlaps(made, Notation.JEFFERSON).segments[0].text
    dresing_pehl = with_overlaps(made, Notation.DRESING_PEHL).segments[0].text
    assert jefferson == "one [two three] four [B speaks too]"
    assert dresing_pehl == "one //two three// four [B speaks too]"


def test_overlaps_can_be_left_out():
    made = transcript([segment("A", "one two")], overlaps=(Overlap(0.0, 0.5, ("A", "B")),))
    text = render(made, Format.TXT, Label(session="A-1"), ExportOptions(overlaps=False)).decode()

    assert text.endswith("A: one two\n")


# --- punctuation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "wanted"),
    [
        ("de", "Er sagte: „Wo, um 10:30?“ Ja."),
        ("fr", "Er sagte\u00a0: «\u00a0Wo, um 10:30\u202f?\u00a0» Ja."),
        ("zh", "Er sagte： “Wo， um 10:30？” Ja。"),
        ("ja", "Er sagte： 「Wo、 um 10:30？」 Ja。"),
        ("ar", "Er sagte: «Wo، um 10:30؟» Ja."),
        ("en", "Er sagte: “Wo, um 10:30?” Ja."),
    ],
)
def test_punctuation_marks_become_those_of_the_language(language, wanted):
    made = with_punctuation(said('Er sagte: "Wo, um 10:30?" Ja.'), language)

    assert made.segments[0].text == wanted


def test_punctuation_of_chinese_becomes_latin():
    made = with_punctuation(said("我说：“什么？”"), "en")

    assert made.segments[0].text == "我说：“什么?”"


# --- times and characters -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "mark"),
    [(Format.MAXQDA, "#00:17:00-0#"), (Format.ATLAS, "#00:17:00.0#"), (Format.TXT, "[00:17:00]")],
)
def test_a_turn_of_an_hour_can_have_a_time_each_minute(format, mark):
    options = ExportOptions(timestamps=Timestamps.MINUTE)
    text = render(CASES["60-minute turn"](), format, Label(session="A-1"), options).decode()

    assert mark in text and text.count(mark[0] + "00:") >= 44


def test_a_line_keeps_spaces_that_join_words_and_loses_everything_else():
    assert one_line(" a\u00a0b\t\n c\x00\u2028d\ud83d ") == "a\u00a0b c d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("أهلا P07", True), ("P07 أهلا", False), ("12: שלום", True), ("…", False)],
)
def test_the_first_letter_tells_the_direction(text, expected):
    assert is_right_to_left(text) == expected


def test_options_never_change_the_json():
    made = said("Um, I I was.")
    options = ExportOptions(wording=Wording.CLEAN, pauses=0.1, punctuation="fr")
    label = Label(session="INT-07")

    assert render(made, Format.JSON, label, options) == render(made, Format.JSON, label)
    assert replace(made) == made
