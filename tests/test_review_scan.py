"""The searches that a review makes itself: known names, words that nothing suggested."""

import pytest

from models.deidentification.anchoring import Place
from models.deidentification.occurrences import KnownEntity, SpokenSegment
from models.deidentification.roster_scan import NameIndex, find_in, find_known, spoken_segments
from models.deidentification.sampling import wilson
from models.deidentification.unsuggested import count_by_kind, find_unsuggested
from tests.deidentified import make_transcript

HOPE = KnownEntity("1", "person", "Hope Okonkwo", ("Hoppy",))


def spoken(*texts):
    return [SpokenSegment(f"s{i:04d}", "SPEAKER_00", text, ()) for i, text in enumerate(texts, 1)]


def surfaces(segments, places):
    texts = {segment.id: segment.text for segment in segments}
    return [texts[place.segment][place.start : place.stop] for place in places]


def known(*texts, entities=(HOPE,)):
    segments = spoken(*texts)
    return surfaces(
        segments,
        [Place(one.segment_id, one.start, one.end) for one in find_known(segments, entities)],
    )


def test_a_known_name_is_found_in_every_spelling_of_its_entity():
    assert known("So Hoppy came, and Hope Okonkwo's mother.", "Okonkwo was there.") == [
        "Hoppy",
        "Hope Okonkwo",
        "Okonkwo",
    ]


def test_a_name_that_is_a_word_is_found_only_where_it_is_a_name():
    assert known("I hope so. We all hope.", "Then Hope said no.") == ["Hope"]


def test_a_name_split_over_two_segments_is_found_in_both():
    assert known("I was with Hope", "Okonkwo all day.") == ["Hope", "Okonkwo"]


def test_without_names_nothing_is_searched():
    assert find_known(spoken("Hope Okonkwo."), []) == []


def test_the_rules_read_single_segments():
    segments = spoken("My brother Tomasz came.", "My sister Agnieszka came.")

    assert {one.segment_id for one in find_in(segments, {"s0002"})} == {"s0002"}


def test_segments_know_where_their_words_end():
    segment = spoken_segments(make_transcript())[0]

    assert segment.text[: segment.word_ends[1]] == "Good morning."


def test_each_word_of_a_persons_name_is_a_name_too():
    index = NameIndex.of(
        [
            ("1", True, ["siobhan gallagher", "shiv"]),
            ("2", True, ["tom gallagher"]),
            ("3", False, ["gallagher house"]),
        ]
    )

    assert index.find("gallagher") == {"1", "2"}
    assert index.find("shiv") == {"1"}
    assert index.find("house") == frozenset()


# --- what nothing suggested -----------------------------------------------------------------------


def left(*texts, mentions=()):
    return [(one.kind, one.word) for one in find_unsuggested(spoken(*texts), mentions)]


def test_capitalised_rare_and_numeric_words_are_listed():
    assert left("We drove to Woolgoolga in 1986. The quoll ate forty-two pies, by three.") == [
        ("capitalised", "Woolgoolga"),
        ("number", "1986"),
        ("number", "forty-two"),
        ("rare", "quoll"),
    ]


def test_words_in_a_mention_are_not_listed():
    text = "We drove to Woolgoolga."
    place = Place("s0001", text.index("Wool"), text.index("."))

    assert left(text, mentions=[place]) == []


def test_the_start_of_a_sentence_is_no_name():
    assert left("Well, yes. They went home. I did too.") == []


def test_a_number_does_not_reach_over_a_mention():
    text = "It was nine eight seven, Tom, six five four."
    place = Place("s0001", text.index("Tom"), text.index("Tom") + 3)

    assert left(text, mentions=[place]) == [
        ("number", "nine eight seven"),
        ("number", "six five four"),
    ]


def test_each_spelling_is_listed_once_with_its_places_the_rarest_first():
    found = find_unsuggested(spoken("In Ulladulla.", "At Ulladulla, then Kyogle."), [])

    assert [(one.word, len(one.places)) for one in found] == [("Kyogle", 1), ("Ulladulla", 2)]
    assert count_by_kind(found) == {"capitalised": 3, "number": 0, "rare": 0}


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(36, 53, 0.55, 0.79), (0, 0, 0, 1), (10, 10, 0.72, 1)]
)
def test_the_wilson_interval(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=0.01)
