from hypothesis import given
from hypothesis import strategies as st

from models.attribution import attribute, overlaps
from models.transcript import Overlap, Turn, Word
from tests.fakes import words


def test_words_go_to_the_speaker_whose_turn_covers_most_of_them():
    turns = [Turn(0.0, 1.0, "A"), Turn(1.0, 3.0, "B")]
    said = (Word(" Yes", 0.2, 0.6, 0.9), Word(" and", 0.9, 1.3, 0.9), Word(" no", 1.5, 2.0, 0.9))
    segments = attribute(said, turns)

    assert [(s.speaker, s.text) for s in segments] == [("A", "Yes"), ("B", "and no")]


def test_a_word_beside_a_turn_belongs_to_it_up_to_a_second():
    turns = [Turn(10.0, 12.0, "A")]

    assert attribute([Word(" mm", 12.5, 12.8, 0.9)], turns)[0].speaker == "A"
    assert attribute([Word(" mm", 13.5, 13.8, 0.9)], turns)[0].speaker is None


def test_without_turns_no_speaker_is_made_up():
    assert [segment.speaker for segment in attribute(words("one two"), [])] == [None]


def test_a_long_pause_begins_a_new_segment():
    said = (Word(" one", 0.0, 0.3, 0.9), Word(" two", 2.5, 2.8, 0.9))

    assert len(attribute(said, [Turn(0.0, 3.0, "A")])) == 2


def test_a_paragraph_of_a_minute_ends_with_its_sentence():
    said = words("so it went on " * 60 + "and on. Then it stopped.", length=0.3)
    segments = attribute(said, [Turn(0.0, 100.0, "A")])

    assert [segment.text.split()[-1] for segment in segments] == ["on.", "stopped."]


def test_overlap_is_marked_with_its_times_and_speakers():
    turns = [Turn(0.0, 5.0, "A"), Turn(4.0, 8.0, "B"), Turn(4.5, 5.0, "C")]

    assert overlaps(turns) == (
        Overlap(4.0, 4.5, ("A", "B")),
        Overlap(4.5, 5.0, ("A", "B", "C")),
    )


def test_neighbouring_overlaps_of_the_same_speakers_are_one():
    turns = [Turn(0.0, 5.0, "A"), Turn(1.0, 2.0, "B"), Turn(2.0, 3.0, "B")]

    assert overlaps(turns) == (Overlap(1.0, 3.0, ("A", "B")),)


times = st.floats(0, 100).map(lambda time: round(time, 2))
turns_of_some = st.lists(st.tuples(times, st.floats(0.1, 10), st.sampled_from("ABC")), max_size=12)


@given(
    starts=st.lists(times, max_size=40).map(sorted),
    turns=turns_of_some,
)
def test_no_word_is_lost_doubled_or_reordered(starts, turns):
    said = [Word(f" w{i}", start, start + 0.3, 0.5) for i, start in enumerate(starts)]
    segments = attribute(said, [Turn(start, start + length, who) for start, length, who in turns])

    assert [word for segment in segments for word in segment.words] == said
    assert all(segment.words for segment in segments)
    assert {segment.speaker for segment in segments} <= {"A", "B", "C", None}
