"""Occurrences of one or several de-identifiers, united to mentions."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deidentification.anchoring import Place
from service.database.tables import Mention
from service.domain.mentions import (
    Candidate,
    HintReader,
    MentionIndex,
    read_label,
    read_rule,
    unite,
)


def candidate(start, stop, label="PERSON", tier="sure", score=0.9, rule="r", segment="s0001"):
    vote = {"stage": "default", "rule": rule, "tier": tier, "score": score}
    return Candidate(Place(segment, start, stop), label, tier, score, (vote,))


def test_the_same_span_from_two_detectors_is_one_with_both_votes():
    (one,) = unite([candidate(3, 8, rule="a"), candidate(3, 8, rule="b")])

    assert one.place == Place("s0001", 3, 8)
    assert [vote["rule"] for vote in one.votes] == ["a", "b"]


def test_overlapping_spans_are_one_and_the_surest_says_what_it_is():
    (one,) = unite(
        [
            candidate(0, 10, "PLACE", "unsure", 0.6, "a"),
            candidate(5, 14, "PERSON", "sure", 0.8, "b"),
            candidate(12, 20, "DATE", "unsure", 0.9, "c"),
        ]
    )

    assert (one.place.start, one.place.stop, one.label) == (0, 20, "PERSON")
    assert len(one.votes) == 3


def test_spans_that_touch_or_are_in_other_segments_stay_apart():
    spans = [candidate(0, 5), candidate(5, 9), candidate(0, 5, segment="s0002")]

    assert [one.place for one in unite(spans)] == [each.place for each in spans]


SPANS = st.lists(
    st.builds(
        lambda start, length: candidate(start, start + length),
        st.integers(0, 40),
        st.integers(1, 10),
    ),
    max_size=12,
)


@given(SPANS)
def test_no_character_is_lost_and_none_is_in_two(spans):
    united = unite(spans)

    def characters(each):
        return [i for one in each for i in range(one.place.start, one.place.stop)]

    assert len(characters(united)) == len(set(characters(united)))
    assert set(characters(united)) == set(characters(spans))


@given(SPANS, st.integers(0, 45), st.integers(1, 10))
def test_the_index_finds_every_overlapping_mention(spans, start, length):
    mentions = [
        Mention(segment="s0001", start=each.place.start, stop=each.place.stop) for each in spans
    ]
    found = MentionIndex(mentions).overlapping(Place("s0001", start, start + length))
    slow = [each for each in mentions if each.start < start + length and start < each.stop]

    assert sorted(map(id, found)) == sorted(map(id, slow))


@pytest.mark.parametrize(
    ("label", "read"),
    [("PERSON", "PERSON"), ("GPE", "PLACE"), ("PHONE_NUMBER", "PHONE"), ("EVA", "OTHER")],
)
def test_an_unknown_label_could_be_a_name_and_is_not_stored(label, read):
    assert read_label(label) == read


@pytest.mark.parametrize(
    ("rule", "read"),
    [
        ("roster", "roster"),
        ("first_name+spacy", "first_name+spacy"),
        ("gliner:person", "gliner:person"),
        (None, None),
        ("Eva Muster", "other"),
        ("Eva", "other"),
        ("a" * 101, "other"),
    ],
)
def test_a_rule_that_could_be_a_name_is_not_stored(rule, read):
    assert read_rule(rule) == read


def test_a_hint_that_could_be_a_name_is_numbered():
    hints = HintReader({}, {"person-1"})

    assert hints.read("Eva Muster", "PERSON", None) == (None, "person-2")
    assert hints.read("Eva Muster", "PERSON", None) == (None, "person-2")
    assert hints.read("Ida", "PERSON", None) == (None, "person-3")
    assert hints.read(None, "DATE", None) == (None, None)


def test_equal_hints_of_two_stages_mean_two_people_unless_they_found_the_same_span():
    first, second = HintReader({}, set()), HintReader({}, {"person-1"})

    assert first.read("person-1", "PERSON", None) == (None, "person-1")
    assert second.read("person-1", "PERSON", None) == (None, "person-2")
    assert HintReader({}, {"person-1"}).read("person-7", "PERSON", "person-1") == (None, "person-1")


def test_the_id_of_an_entity_of_the_study_is_no_hint():
    known, target = uuid4(), uuid4()
    hints = HintReader({known: target}, set())

    assert hints.read(str(known), "PERSON", None) == (target, None)
    entity, hint = hints.read(str(UUID(int=5)), "PERSON", None)
    assert (entity, hint) == (None, "person-1")
