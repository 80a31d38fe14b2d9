"""What helps a person to recognise the speakers."""

from dataclasses import replace

from models.transcript import Segment, Word
from models.voices import describe_voices
from tests.fakes import segment, transcript


def test_quotes_come_from_all_parts_and_are_not_just_a_yes():
    said = [
        segment("A", text, 10.0 * i)
        for i, text in enumerate(
            [
                "Yes.",
                "One two three four.",
                "No.",
                "Two three four five.",
                "Three four five six.",
                "Mm.",
            ]
        )
    ]
    (voice,) = describe_voices(transcript(said))

    assert [quote.text for quote in voice.quotes] == [
        "One two three four.",
        "Two three four five.",
        "Three four five six.",
    ]
    assert voice.quotes[0].segment == "s0002"
    assert (voice.quotes[0].start, voice.quotes[0].end) == (10.0, 11.2)


def test_a_long_segment_is_quoted_in_part():
    (voice,) = describe_voices(transcript([segment("A", "word " * 30)]))

    assert voice.quotes[0].text == " ".join(["word"] * 12) + " …"


def test_somebody_who_says_little_is_quoted_with_it_or_not_at_all():
    said = [segment("A", "Yes."), Segment("B", 2.0, 3.0, ())]
    quoted = {voice.label: len(voice.quotes) for voice in describe_voices(transcript(said))}

    assert quoted == {"A": 1, "B": 0}


def test_well_recognised_words_are_quoted_first():
    unsure = segment("A", "Wreck a nice beach.", 0.0)
    unsure = replace(unsure, words=tuple(replace(w, probability=0.2) for w in unsure.words))
    written = Segment("A", 9.0, 9.5, (Word(" Hm", 9.0, 9.5, None, placed=True),))
    said = [
        unsure,
        *(segment("A", f"Recognise speech number {i}.", 10.0 * i) for i in range(1, 6)),
        written,
    ]
    (voice,) = describe_voices(transcript(said))

    assert all("Recognise" in quote.text for quote in voice.quotes)


def test_who_asks_most_questions_is_suggested_as_the_interviewer():
    said = []
    for i in range(4):
        said += [
            segment("A", "How was that?", 10.0 * i),
            segment("B", "It was fine.", 10.0 * i + 5),
        ]
    roles = {v.label: v.suggested_role for v in describe_voices(transcript(said))}

    assert roles == {"A": "interviewer", "B": None}
