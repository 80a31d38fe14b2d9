"""The residual-risk report: what is left in a de-identified text."""

from dataclasses import replace

import pytest

from models.deidentification.redaction import Redaction, redact
from models.deidentification.risk_report import examine
from models.transcript import Segment, Word
from tests.test_redaction import made


def examined(text, *names, rejected=()):
    """Examine a text of which these names have been replaced by P07."""
    before = made(*[f" {word}" for word in text.split()])
    spans = [Redaction("s0001", text.index(n), text.index(n) + len(n), "P07") for n in names]
    places = [("s0001", text.index(r), text.index(r) + len(r)) for r in rejected]
    return examine(before, redact(before, spans), places)


def test_replacements_are_not_reported_as_left():
    before = made(" I", " met", " Eva", " in", " Footscray", " in", " 1986.")
    spans = [
        Redaction("s0001", 6, 9, "P07"),
        Redaction("s0001", 13, 22, "[PLACE-1: Suburb]"),
        Redaction("s0001", 26, 30, "[DATE: 1986]"),
    ]
    left = examine(before, redact(before, spans))

    assert (left.suggestions, left.unknown_words, left.long_numbers) == ({}, (), 0)
    assert left.words == 4


def test_names_and_numbers_that_are_left_are_counted():
    left = examined("I met Eva and Siobhan Gallagher and Siobhan, on 0412338096.", "Eva")

    assert left.suggestions == {"PERSON": 2, "PHONE": 1}
    assert left.long_numbers == 1
    words = {word.text: word.n for word in left.unknown_words}
    assert words == {"Siobhan": 2, "Gallagher": 1}
    assert left.n_unknown_words == 3


def test_what_a_reviewer_has_rejected_is_not_suggested_again():
    text = "I met Siobhan Gallagher."
    assert examined(text).suggestions == {"PERSON": 1}
    assert examined(text, rejected=["Siobhan Gallagher"]).suggestions == {}


def test_high_ages_pronouns_and_indirect_identifiers_are_counted():
    left = examined("She was the only GP in town, aged ninety-three, and he was in the paper.")

    assert left.ages_from_90 == 1
    assert left.pronouns == {"she, her, hers, herself": 1, "he, him, his, himself": 1}
    assert left.indirect == {"media": 1, "uniqueness": 1}
    assert left.densest_indirect == 2


def test_indirect_identifiers_are_counted_together_within_500_words():
    flagged = Segment(None, 0, 1, (Word("He was in the paper.", 0, 1, 0.9),), id="a1")
    filler = Segment(None, 0, 1, (Word("word " * 500, 0, 1, 0.9),), id="a2")
    near = replace(made(), segments=(flagged, replace(flagged, id="a3")))
    far = replace(made(), segments=(flagged, filler, replace(flagged, id="a3")))

    assert examine(near, redact(near, [])).densest_indirect == 2
    assert examine(far, redact(far, [])).densest_indirect == 1


def test_text_without_capitals_is_reported():
    assert examined("I met Eva there yesterday and we talked for a very long time.").is_cased
    assert not examined("i met eva there yesterday and we talked for a very long time").is_cased


def test_capitals_of_replacements_do_not_make_a_text_look_cased():
    """With them, the rules for cased text searched a text without capitals."""
    text = "i met siobhan and my brother tomasz in footscray yesterday and we talked about it all"
    left = examined(text, "siobhan")

    assert not left.is_cased
    assert left.suggestions == examined(text.replace("siobhan", "somebody")).suggestions
    assert left.suggestions["PERSON"] == 1


def test_confidence_is_that_of_the_words_around_a_replacement():
    before = made(*[f" w{i}" for i in range(20)], " Eva", " spoke.")
    words = tuple(
        replace(word, probability=0.2 if i >= 15 else 0.9) for i, word in enumerate(before.words)
    )
    before = replace(before, segments=(replace(before.segments[0], words=words),))
    start = before.segments[0].text.index("Eva")
    result = redact(before, [Redaction("s0001", start, start + 3, "P07")])

    assert examine(before, result).confidence_nearby == pytest.approx(0.2)
    assert examine(before, redact(before, [])).confidence_nearby is None


def test_replacements_with_interpolated_times_are_counted():
    before = made(" Eva", " saw", " Rex.")
    words = (replace(before.words[0], placed=True), *before.words[1:])
    before = replace(before, segments=(replace(before.segments[0], words=words),))
    spans = [Redaction("s0001", 0, 3, "P07"), Redaction("s0001", 8, 11, "[OTHER-1]")]

    assert examine(before, redact(before, spans)).interpolated_replacements == 1
