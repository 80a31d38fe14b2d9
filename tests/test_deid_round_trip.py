"""The measures of the round trip, on transcripts made by hand."""

import ctypes.util
from dataclasses import replace

import numpy as np
import pytest

from models.audio.recording import SAMPLE_RATE
from models.deidentification.occurrences import KnownEntity
from models.transcript import Segment, Word
from scripts.deid_evaluation import parse_passage
from scripts.deid_round_trip import (
    Spoken,
    accepted_by_a_careful_reviewer,
    align,
    measure,
    place_gold,
    score,
    speak,
)
from scripts.espeak import SpokenWord
from tests.finished import conversation

SAID = "My name is [[Siobhan Gallagher|PERSON|roster]] and I live in [[Moe|PLACE]] these days."
ROSTER = [KnownEntity("1", "person", "Siobhan Gallagher")]
STEP = 0.5  # s for each word, of which 0.4 s are spoken


def spoken_by_hand(line=SAID):
    passage = parse_passage(line)
    words = tuple(
        SpokenWord(text, i * STEP, i * STEP + 0.4) for i, text in enumerate(passage.text.split())
    )
    samples = np.zeros(round(len(words) * STEP * SAMPLE_RATE), dtype=np.float32)
    return Spoken(samples, words, tuple(place_gold(passage, words)))


def heard_by_hand(text, starts=None):
    """A transcript whose words are timed at the words that were said, or at `starts`."""
    words = text.split()
    starts = starts or [i * STEP for i in range(len(words))]
    made = tuple(
        Word(f" {word}", start, start + 0.4, 0.9) for word, start in zip(words, starts, strict=True)
    )
    segment = Segment("SPEAKER_00", made[0].start, made[-1].end, made)
    base = conversation()
    duration = made[-1].end + 1
    source = replace(base.sources[0], duration=duration)
    return replace(base, duration=duration, segments=(segment,), sources=(source,), flags=())


def test_an_identifier_heard_as_spelt_and_found_is_masked():
    spoken = spoken_by_hand()
    scored = measure(spoken, heard_by_hand(parse_passage(SAID).text), ROSTER)

    assert (scored.n_words, scored.n_wrong, scored.n_spelt, scored.n_changed) == (12, 0, 2, 0)
    assert scored.found_spelt["PERSON"] == 1
    assert scored.masked_seconds >= scored.gold_seconds * 0.6


def test_a_misheard_identifier_is_looked_for_where_it_was_spoken():
    spoken = spoken_by_hand()
    transcript = heard_by_hand("My name is Chevonne Gallacher and I live in mow these days.")
    scored = score(spoken, transcript, [])

    assert (scored.n_spelt, scored.n_changed) == (0, 2)
    assert scored.missed == [
        "PERSON 'siobhan gallagher' heard as 'Chevonne Gallacher'",
        "PLACE 'moe' heard as 'mow'",
    ]
    assert measure(spoken, transcript, ROSTER).found_changed["PERSON"] == 1


def test_an_identifier_that_was_not_heard_is_counted_apart():
    starts = [0, 0.5, 1.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    transcript = heard_by_hand("My name is and I live in these days.", starts)
    scored = score(spoken_by_hand(), transcript, [])

    assert dict(scored.lost) == {"PERSON": 1, "PLACE": 1}
    assert (scored.n_gold, scored.wholly) == (2, 0)


def test_words_between_equal_ones_are_aligned_by_time():
    said = spoken_by_hand().words
    text = "My name is should von Gal and I live in Moe these days."
    starts = [0, 0.5, 1.0, 1.45, 1.6, 2.0, *(i * STEP for i in range(5, 11)), 5.5]
    heard = heard_by_hand(text, starts)

    assert align(said, heard.words)[:7] == [0, 1, 2, 3, 3, 4, 5]


def test_masking_everything_said_of_identifiers_hides_them_and_little_else():
    spoken = spoken_by_hand()
    transcript = heard_by_hand("My name is should von and I live in Moe these days.")
    found = accepted_by_a_careful_reviewer(spoken, transcript)
    scored = score(spoken, transcript, found)

    assert [(each.words, each.label) for each in found] == [
        ((3, 4), "PERSON"),
        ((4, 5), "PERSON"),
        ((9, 10), "PLACE"),
    ]
    assert scored.wholly == scored.n_gold == 2
    assert scored.masked_seconds == pytest.approx(scored.gold_seconds)
    assert 0 < scored.masked_other_seconds < 4 * 0.15 + 0.05
    assert scored.n_false == 0


def test_false_suggestions_are_those_that_touch_no_identifier():
    spoken = spoken_by_hand("My name is [[Siobhan|PERSON]] and Vegemite sandwiches are fine.")
    transcript = heard_by_hand("My name is Siobhan and Vegemite sandwiches are fine.")
    (first,) = accepted_by_a_careful_reviewer(spoken, transcript)
    false = replace(first, start=22, end=30, words=(5, 6))

    assert score(spoken, transcript, [first]).n_false == 0
    assert score(spoken, transcript, [first, false]).n_false == 1


def test_passages_are_spoken_with_their_identifiers_in_place():
    if ctypes.util.find_library("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    spoken = speak([parse_passage(SAID), parse_passage("[[Eva|PERSON]] said so.")])

    assert [(each.label, each.first, each.after) for each in spoken.gold] == [
        ("PERSON", 3, 5),
        ("PLACE", 9, 10),
        ("PERSON", 12, 13),
    ]
    assert [word.text for word in spoken.words[3:5]] == ["Siobhan", "Gallagher"]
    assert all(
        a.end <= b.start + 0.01 for a, b in zip(spoken.words, spoken.words[1:], strict=False)
    )
    assert len(spoken.samples) / SAMPLE_RATE > spoken.words[-1].end
