import json

import pytest

from models.transcript import (
    Flag,
    Overlap,
    Segment,
    Transcript,
    Turn,
    Word,
    number_speakers,
    speakers_in_order,
)
from models.transcript_json import from_json, to_json
from tests.fakes import segment, transcript


def example() -> Transcript:
    return transcript(
        [segment("SPEAKER_00", "Where do you work?"), segment(None, "Mm.", 3.0)],
        overlaps=(Overlap(1.0, 2.0, ("SPEAKER_00", "SPEAKER_01"), ("SPEAKER_01",)),),
        flags=(Flag("loop", 0.0, 20.0, {"compression_ratio": 3.1}),),
        warnings=("Made with the demo weights.",),
    )


def test_a_transcript_read_back_from_json_is_the_same():
    assert from_json(to_json(example())) == example()


def test_a_turns_certainty_is_read_back_and_is_none_in_older_transcripts():
    made = transcript([], turns=(Turn(0.0, 1.0, "SPEAKER_00", 0.25), Turn(1.0, 2.0, "SPEAKER_01")))
    document = json.loads(to_json(made))

    assert from_json(to_json(made)).turns == made.turns
    assert [turn["certainty"] for turn in document["turns"]] == [0.25, None]
    del document["turns"][0]["certainty"]
    assert from_json(json.dumps(document)).turns[0].certainty is None


def test_json_has_each_segments_text_beside_its_words():
    document = json.loads(to_json(example()))

    assert document["schema"] == "fieldscribe.transcript/1"
    assert [s["text"] for s in document["segments"]] == ["Where do you work?", "Mm."]
    assert document["segments"][1]["speaker"] is None


def test_another_schema_is_refused():
    document = json.loads(to_json(example()))
    document["schema"] = "fieldscribe.transcript/2"

    with pytest.raises(ValueError, match="schema"):
        from_json(json.dumps(document))


def test_speakers_come_in_the_order_in_which_they_first_speak():
    turns = [
        Turn(5.0, 6.0, "SPEAKER_00"),
        Turn(1.0, 2.0, "SPEAKER_01"),
        Turn(7.0, 8.0, "SPEAKER_01"),
    ]

    assert speakers_in_order(turns) == ("SPEAKER_01", "SPEAKER_00")


def test_segments_are_numbered_by_their_place_and_keep_their_ids():
    made = example()
    without_the_first = transcript(made.segments[1:])

    assert [one.id for one in made.segments] == ["s0001", "s0002"]
    assert [one.id for one in from_json(to_json(without_the_first)).segments] == ["s0002"]


def test_a_transcript_of_an_earlier_release_gets_the_same_ids_at_each_reading():
    document = json.loads(to_json(example()))
    del document["version"]
    for plain in document["segments"]:
        del plain["id"], plain["checked_by"]
    old = json.dumps(document)

    assert from_json(old) == from_json(old) == example()


def test_two_segments_with_one_id_are_refused():
    document = json.loads(to_json(example()))
    document["segments"][1]["id"] = "s0001"

    with pytest.raises(ValueError, match="same id"):
        from_json(json.dumps(document))


def test_a_word_that_a_person_wrote_is_read_back():
    written = Segment("SPEAKER_00", 0.0, 1.0, (Word("Hm", 0.0, 1.0, None, placed=True),))
    made = from_json(to_json(transcript([written])))

    assert made.words == written.words
    assert json.loads(to_json(made))["segments"][0]["words"][0]["placed"] is True


def test_the_first_speaker_with_words_is_speaker_00():
    """pyannote's clusters have no order: the first to speak was often SPEAKER_01."""
    segments = [segment("B", "Good morning.", 1.0), segment("A", "Morning.", 3.0)]
    turns = [Turn(0.0, 0.2, "C"), Turn(1.0, 2.0, "B"), Turn(3.0, 4.0, "A")]

    assert number_speakers(segments, turns) == {
        "B": "SPEAKER_00",
        "A": "SPEAKER_01",
        "C": "SPEAKER_02",
    }
