"""Corrections as plain data: segments keep their ids, and every change can be undone."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import corrections
from models.corrections import (
    BadCorrection,
    Change,
    ChangedSince,
    NoSuchSegment,
    apply,
    change_from_json,
    change_to_json,
)
from models.transcript import Segment, SpeakerName, Transcript, Word
from models.transcript_json import from_json, to_json
from tests.fakes import segment, transcript


def example() -> Transcript:
    return transcript(
        [
            segment("SPEAKER_00", "Where do you work?"),
            segment("SPEAKER_01", "I work at the clinic. It is 𝄞 fine.", 2.0),
            segment("SPEAKER_01", "Yes.", 6.0),
        ]
    )


def texts(made: Transcript) -> list[tuple[str, str | None, str]]:
    return [(one.id, one.speaker, one.text) for one in made.segments]


def test_a_new_text_is_no_longer_checked():
    checked = apply(example(), corrections.edit(example(), "s0001", checked_by="R1"))
    changed = apply(checked, corrections.edit(checked, "s0001", text="Where did you work?"))
    both = corrections.edit(checked, "s0001", text="Where did you work?", checked_by="R2")

    assert checked.segments[0].checked_by == "R1"
    assert changed.segments[0].checked_by is None
    assert changed.version == 3
    assert apply(checked, both).segments[0].checked_by == "R2"


def test_a_split_is_between_two_words_and_counts_code_points():
    made = example()
    at = made.segments[1].text.index("fine")
    parts = apply(made, corrections.split(made, "s0002", at, "c2.1", "SPEAKER_00"))

    assert texts(parts)[1:3] == [
        ("s0002", "SPEAKER_01", "I work at the clinic. It is 𝄞"),
        ("c2.1", "SPEAKER_00", "fine."),
    ]
    assert parts.words == made.words
    assert parts.segments[1].end <= parts.segments[2].start
    for wrong in (0, 1000, at + 1, made.segments[1].text.index("linic")):
        with pytest.raises(BadCorrection):
            corrections.split(made, "s0002", wrong, "c2.1")


def test_a_split_may_be_before_or_after_the_space():
    made = example()
    at = made.segments[1].text.index("fine")
    before, after = (corrections.split(made, "s0002", each, "c2.1") for each in (at - 1, at))

    assert before == after


def test_a_merge_keeps_the_id_of_the_first_and_all_words():
    made = example()
    joined = apply(made, corrections.merge(made, "s0003"))

    assert [one.id for one in joined.segments] == ["s0001", "s0002"]
    assert joined.words == made.words
    assert joined.segments[1].end == made.segments[2].end
    with pytest.raises(BadCorrection, match="different speakers"):
        corrections.merge(made, "s0002")
    with pytest.raises(BadCorrection):
        corrections.merge(made, "s0001")
    both = apply(made, corrections.merge(made, "s0002", "SPEAKER_01"))
    assert texts(both)[0][1:] == (
        "SPEAKER_01",
        "Where do you work? I work at the clinic. It is 𝄞 fine.",
    )


def test_a_merge_writes_a_space_between_words_but_not_between_characters():
    def joined(first, second):
        made = transcript(
            [
                Segment("A", i, i + 1, (Word(text, i, i + 1, 0.9),))
                for i, text in enumerate((first, second))
            ]
        )
        return apply(made, corrections.merge(made, "s0002")).segments[0].text

    assert joined("Good", "morning") == "Good morning"
    assert joined("今天", "很好") == "今天很好"


def test_an_inserted_segment_lies_between_its_neighbours():
    made = example()
    added = apply(made, corrections.insert(made, "s0001", "Mm.", "SPEAKER_01", "c2.1"))

    assert [one.id for one in added.segments] == ["s0001", "c2.1", "s0002", "s0003"]
    assert (added.segments[1].start, added.segments[1].end) == (made.segments[0].end, 2.0)
    assert added.segments[1].words[0].probability is None
    first = apply(made, corrections.insert(made, None, "Mm.", None, "c2.1", (0.0, 0.0)))
    assert first.segments[0].id == "c2.1"
    for times in ((3.0, 4.0), (1.0, 0.5), (1.0, 99.0)):
        with pytest.raises(BadCorrection):
            corrections.insert(made, "s0001", "Mm.", None, "c2.1", times)


def test_a_speaker_whom_the_models_missed_is_added_to_the_list():
    made = example()
    added = apply(made, change := corrections.edit(made, "s0003", speaker="SPEAKER_02"))

    assert added.speakers == ("SPEAKER_00", "SPEAKER_01", "SPEAKER_02")
    assert apply(added, change.invert("undo")).speakers == made.speakers


def test_an_unknown_segment_is_refused():
    for attempt in (corrections.delete, corrections.merge, corrections.edit):
        with pytest.raises(NoSuchSegment):
            attempt(example(), "s0099")


def test_a_change_whose_segment_was_changed_since_cannot_be_undone():
    made = example()
    change = corrections.edit(made, "s0001", text="Where?")
    later = apply(made, change)
    latest = apply(later, corrections.edit(later, "s0001", text="Where now?"))

    with pytest.raises(ChangedSince):
        apply(latest, change.invert("undo"))
    names = Change("speakers", names=({}, {"SPEAKER_00": SpeakerName(code="I1")}))
    named = apply(made, names)
    renamed = apply(named, corrections.name_speakers(named, {}))
    with pytest.raises(ChangedSince):
        apply(renamed, names.invert("undo"))


def test_deleting_a_neighbour_does_not_block_undoing():
    made = example()
    change = corrections.edit(made, "s0003", text="No.")
    later = apply(made, change)
    latest = apply(later, corrections.delete(later, "s0001"))

    assert texts(apply(latest, change.invert("undo")))[-1][2] == "Yes."


@st.composite
def change_of(draw, made):
    """Any change of a transcript that is possible."""
    ids = [one.id for one in made.segments]
    new_id = f"c{made.version + 1}.1"
    kind = draw(
        st.sampled_from(["text", "speaker", "check", "split", "merge", "insert", "delete", "names"])
    )
    if kind == "insert" or not ids:
        return corrections.insert(
            made, draw(st.sampled_from([None, *ids])), "New words.", "SPEAKER_00", new_id
        )
    if kind == "names":
        code = draw(st.sampled_from(["I1", "P07"]))
        return corrections.name_speakers(made, {"SPEAKER_00": SpeakerName(code=code)})
    place = draw(st.integers(0, len(ids) - 1))
    if kind == "merge" and place > 0:
        return corrections.merge(made, ids[place], draw(st.sampled_from(["SPEAKER_00", None])))
    if kind == "delete":
        return corrections.delete(made, ids[place])
    if kind == "split":
        words = made.segments[place].text.split()
        if len(words) > 1:
            at = len(" ".join(words[: draw(st.integers(1, len(words) - 1))]))
            return corrections.split(
                made, ids[place], at, new_id, draw(st.sampled_from(["SPEAKER_02", None]))
            )
    if kind == "speaker":
        return corrections.edit(
            made, ids[place], speaker=draw(st.sampled_from(["SPEAKER_02", None]))
        )
    if kind == "check":
        return corrections.edit(made, ids[place], checked_by="R1")
    words = made.segments[place].text.split()
    start = draw(st.integers(0, len(words)))
    words[start : draw(st.integers(start, len(words)))] = draw(
        st.lists(st.sampled_from(["so", "It", "𝄞"]), max_size=3)
    )
    return corrections.edit(made, ids[place], text=" ".join(words))


@settings(max_examples=150)
@given(st.data())
def test_every_change_keeps_order_and_other_segments_and_can_be_undone(data):
    """Word for word and byte for byte, also when the journal is read back."""
    versions = [example()]
    changes = []
    for _ in range(data.draw(st.integers(1, 6))):
        change = change_from_json(change_to_json(data.draw(change_of(versions[-1]))))
        changes.append(change)
        versions.append(from_json(to_json(apply(versions[-1], change))))
    for before, after, change in zip(versions, versions[1:], changes, strict=False):
        untouched = [one for one in before.segments if one.id not in change.segment_ids]
        assert untouched == [one for one in after.segments if one.id not in change.segment_ids]
        assert all(a.start <= b.start for a, b in pairwise(after.segments))
        for one in after.segments:
            assert all(a.start <= b.start for a, b in pairwise(one.words))
            assert all(one.start <= w.start <= w.end <= one.end for w in one.words)
        heard = {(w.start, w.end, w.probability) for w in before.words}
        assert all((w.start, w.end, w.probability) in heard for w in after.words if not w.placed)
    made = versions[-1]
    for change, earlier in zip(reversed(changes), reversed(versions[:-1]), strict=True):
        made = apply(made, change.invert("undo"))
        assert to_json(replace(made, version=earlier.version)) == to_json(earlier)


@settings(max_examples=50)
@given(st.data())
def test_any_version_can_be_restored_to_the_byte(data):
    first = example()
    made = first
    for _ in range(data.draw(st.integers(1, 5))):
        made = apply(made, data.draw(change_of(made)))
    back = apply(made, corrections.restore(made, first))

    assert to_json(replace(back, version=1)) == to_json(first)
