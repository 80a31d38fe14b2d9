"""Spans carried from one version of a transcript to another."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import corrections
from models.deidentification.anchoring import Anchors, Carried, Place
from models.transcript import Segment, Transcript, Word
from tests.finished import conversation

TEXTS = (
    "Good morning.",
    "My name is Eva Muster, from Coffs Harbour.",
    "And Eva is what they call you?",
)


def transcript(*texts: str) -> Transcript:
    return replace(
        conversation(),
        segments=tuple(
            Segment(
                f"SPEAKER_0{i % 2}",
                float(i),
                i + 1.0,
                tuple(Word(f" {word}", float(i), i + 1.0, 0.9) for word in text.split()),
            )
            for i, text in enumerate(texts)
        ),
        duration=float(len(texts)),
    )


def place(made: Transcript, segment: str, text: str) -> Place:
    of = next(each.text for each in made.segments if each.id == segment)
    return Place(segment, of.index(text), of.index(text) + len(text))


def surfaces(made: Transcript, carried: Carried) -> list[str]:
    texts = {segment.id: segment.text for segment in made.segments}
    return [texts[each.segment][each.start : each.stop] for each in carried.places]


OLD = transcript(*TEXTS)
EVA = place(OLD, "s0002", "Eva Muster")


def edited(text: str, segment: str = "s0002") -> Transcript:
    return corrections.apply(OLD, corrections.edit(OLD, segment, text=text))


def carry(new: Transcript, span: Place = EVA) -> tuple[list[str], bool]:
    carried = Anchors(OLD, new).carry(span)
    return surfaces(new, carried), carried.is_changed


def test_a_span_in_an_unchanged_segment_stays_where_it_is():
    assert Anchors(OLD, edited("Hello!", "s0001")).carry(EVA) == Carried((EVA,), False)


def test_a_span_moves_with_its_words():
    new = edited("Well, my name is Eva Muster, yes, from Coffs Harbour.")

    assert Anchors(OLD, new).carry(EVA) == Carried((place(new, "s0002", "Eva Muster"),), False)


def test_a_span_whose_words_are_corrected_is_reported_with_the_new_words():
    assert carry(edited("My name is Ava Mustard, from Coffs Harbour.")) == (["Ava Mustard"], True)
    assert carry(edited("My name is Eva Mustard, from Coffs Harbour.")) == (["Eva Mustard"], True)


def test_a_capital_counts_as_another_word():
    assert carry(edited("My name is eva Muster, from Coffs Harbour.")) == (["eva Muster"], True)


def test_a_deleted_span_has_no_place():
    assert carry(edited("My name is, from Coffs Harbour.")) == ([], True)
    assert carry(corrections.apply(OLD, corrections.delete(OLD, "s0002"))) == ([], True)


def test_a_passage_that_was_written_anew_keeps_only_the_words_that_stayed():
    text = "I do not want to give names here because Eva will have to be enough for all of us now."
    new = edited(f"{text} Is that fine with you?")

    assert carry(new) == (["Eva"], True)


def test_a_span_follows_its_words_into_a_segment_that_was_split_off():
    new = corrections.apply(OLD, corrections.split(OLD, "s0002", 8, "c2.1"))

    assert Anchors(OLD, new).carry(EVA) == Carried((place(new, "c2.1", "Eva Muster"),), False)


def test_a_span_within_which_a_segment_was_split_has_two_places():
    new = corrections.apply(OLD, corrections.split(OLD, "s0002", 15, "c2.1"))

    assert carry(new) == (["Eva", "Muster"], False)


def test_a_span_follows_its_words_into_a_segment_that_was_joined():
    old = replace(OLD, segments=tuple(replace(each, speaker="A") for each in OLD.segments))
    new = corrections.apply(old, corrections.merge(old, "s0003"))
    carried = Anchors(old, new).carry(place(old, "s0003", "Eva"))

    assert carried.is_changed is False
    assert carried.places[0].segment == "s0002"
    assert surfaces(new, carried) == ["Eva"]


def test_punctuation_beside_a_span_may_change():
    assert carry(edited("My name is Eva Muster. From Coffs Harbour.")) == (["Eva Muster"], False)


def test_punctuation_within_a_span_is_kept():
    old = transcript("Call +61 (0) 412 now", "Yes.")
    new = corrections.apply(old, corrections.edit(old, "s0001", text="So call +61 (0) 412 now"))
    carried = Anchors(old, new).carry(place(old, "s0001", "+61 (0) 412"))

    assert surfaces(new, carried) == ["+61 (0) 412"]


def test_part_of_a_word_keeps_its_offset():
    old = transcript("At Riverbend's door", "Yes.")
    new = corrections.apply(old, corrections.edit(old, "s0001", text="Here at Riverbend's door"))
    carried = Anchors(old, new).carry(place(old, "s0001", "River"))

    assert (surfaces(new, carried), carried.is_changed) == (["River"], False)


def test_characters_of_scripts_without_spaces_are_carried():
    old = transcript("我叫王小明住在北京", "好")
    new = corrections.apply(old, corrections.edit(old, "s0001", text="是我叫王小明住在上海"))

    assert surfaces(new, Anchors(old, new).carry(place(old, "s0001", "王小明"))) == ["王小明"]


def test_new_words_are_listed():
    new = edited("My name is Eva Muster, from near Coffs Harbour, not Bellingen.")
    listed = Anchors(OLD, new).new_places()

    assert surfaces(new, Carried(tuple(listed), True)) == ["near", "not Bellingen"]
    assert Anchors(OLD, OLD).new_places() == []


def test_a_segment_of_another_transcript_is_unknown():
    with pytest.raises(KeyError):
        Anchors(OLD, OLD).carry(Place("s0099", 0, 1))


WORDS = st.lists(st.sampled_from("Eva Ida is the of and Muster, hm.".split()), max_size=12)


@given(old=st.lists(WORDS, min_size=1, max_size=4), new=st.lists(WORDS, max_size=4), data=st.data())
def test_an_unchanged_span_has_the_same_words_in_both_versions(old, new, data):
    before, after = (transcript(*map(" ".join, texts)) for texts in (old, new))
    anchors = Anchors(before, after)
    texts = {segment.id: segment.text for segment in after.segments}
    for segment in before.segments:
        if not segment.text:
            continue
        start = data.draw(st.integers(0, len(segment.text) - 1))
        stop = data.draw(st.integers(start + 1, len(segment.text)))
        carried = anchors.carry(Place(segment.id, start, stop))
        for each in carried.places:
            assert 0 <= each.start < each.stop <= len(texts[each.segment])
        if not carried.is_changed:
            words = "".join(surfaces(after, carried))
            strip = str.maketrans("", "", " ,.")
            assert words.translate(strip) == segment.text[start:stop].translate(strip)


def test_a_long_transcript_is_compared_in_a_moment():
    old = transcript(*(" ".join(f"word{(i * 7 + k) % 400}" for k in range(40)) for i in range(300)))
    new = replace(
        old,
        segments=tuple(
            replace(each, words=(*each.words[:20], Word(" uh", 0.0, 0.0, None), *each.words[20:]))
            for each in old.segments
        ),
    )
    anchors = Anchors(old, new)

    assert len(anchors.new_places()) == 300
    assert not anchors.carry(Place("s0150", 0, 20)).is_changed
