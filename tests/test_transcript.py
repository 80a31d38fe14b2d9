import json

import pytest

from models.transcript import Flag, Overlap, Transcript, Turn, speakers_in_order
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
