"""Replacing spans of a transcript: words keep their times, and nothing identified is left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deidentification.redaction import Redaction, redact, strip_metadata
from models.transcript import (
    Flag,
    MadeWith,
    Segment,
    Source,
    SpeakerName,
    Transcript,
    Turn,
    Word,
)
from models.transcript_json import to_json
from service.exports import Format, Label, render
from service.exports.codings import read_project


def made(*texts, **changes):
    """A transcript of one segment with these words, a second each."""
    words = tuple(Word(text, float(i), i + 0.9, 0.5) for i, text in enumerate(texts))
    transcript = Transcript(
        duration=float(len(words)),
        language="en",
        language_probability=None,
        speakers=("SPEAKER_00",),
        segments=(Segment("SPEAKER_00", 0.0, float(len(words)), words),),
        turns=(Turn(0.0, float(len(words)), "SPEAKER_00"),),
        overlaps=(),
        flags=(),
        sources=(Source(0.0, float(len(words)), "wav", "pcm_s16le", 16000, 1, 640_044),),
        made_with=MadeWith("0", "demo", "0" * 64, "demo", "0" * 64, "cpu", {}, {}),
    )
    return replace(transcript, **changes)


def replaced(transcript, *spans):
    """Redact spans (start, stop, replacement) of the only segment."""
    return redact(transcript, [Redaction("s0001", *span) for span in spans])


def times(transcript):
    return [(word.text, word.start, word.end) for word in transcript.words]


@pytest.mark.parametrize(
    ("words", "spans", "text"),
    [
        ((" With", " Suellen."), [(5, 8, "P07")], "With P07."),
        ((" the", " Gallaghers"), [(4, 13, "P07")], "the P07"),
        ((" Mary-Jane's",), [(0, 4, "P07")], "P07-Jane's"),
        ((" SueEllen",), [(0, 3, "P07"), (3, 8, "P08")], "P07P08"),
        (("我叫李娜。",), [(2, 4, "P07")], "我叫P07。"),
    ],
)
def test_a_span_within_a_written_word_replaces_all_of_it(words, spans, text):
    assert replaced(made(*words), *spans).transcript.segments[0].text == text


def test_words_of_a_span_become_one_word_with_their_joint_interval():
    result = replaced(made(" I", " met", " Eva", " Muster", " there."), (6, 16, "P07"))

    assert result.transcript.segments[0].text == "I met P07 there."
    assert times(result.transcript) == [
        (" I", 0.0, 0.9),
        (" met", 1.0, 1.9),
        (" P07", 2.0, 3.9),
        (" there.", 4.0, 4.9),
    ]


def test_a_possessive_ending_and_punctuation_stay():
    result = replaced(made(" Eva's", " dog,", " Rex."), (0, 3, "P07"), (11, 14, "[OTHER-1]"))

    assert result.transcript.segments[0].text == "P07's dog, [OTHER-1]."


def test_several_spans_in_one_word_are_replaced_in_place():
    result = replaced(made(" Eva and Rex left."), (0, 3, "P07"), (8, 11, "[OTHER-1]"))

    assert times(result.transcript) == [(" P07 and [OTHER-1] left.", 0.0, 0.9)]


def test_a_span_may_cover_parts_of_words():
    result = replaced(made(" Uncle", " Mc", "Donald", "-Smith", " rang"), (6, 20, "P02"))

    assert times(result.transcript) == [
        (" Uncle", 0.0, 0.9),
        (" P02", 1.0, 3.9),
        (" rang", 4.0, 4.9),
    ]


def test_neighbouring_spans_stay_separate_words():
    result = replaced(made(" Eva", " Melbourne"), (0, 3, "P07"), (4, 13, "[PLACE-1]"))

    assert [word.text for word in result.transcript.words] == [" P07", " [PLACE-1]"]


def test_offsets_move_with_the_text():
    result = replaced(made(" Eva", " saw", " Rex", " today."), (0, 3, "P07-A"), (8, 11, "R"))

    text = result.transcript.segments[0].text
    assert text == "P07-A saw R today."
    assert result.move("s0001", 4) == text.index("saw")
    assert result.move("s0001", 12) == text.index("today")
    assert result.move("s0001", 9) == text.index("R today")
    assert [(each.new_start, each.new_stop) for each in result.replaced] == [(0, 5), (10, 11)]


@pytest.mark.parametrize(
    "spans",
    [[(0, 99, "x")], [(3, 3, "x")], [(0, 5, "x"), (4, 8, "y")]],
    ids=["outside", "empty", "overlapping"],
)
def test_impossible_spans_are_refused(spans):
    with pytest.raises(ValueError, match="s0001"):
        replaced(made(" Eva", " Muster"), *spans)
    with pytest.raises(ValueError, match="s0009"):
        redact(made(" Eva"), [Redaction("s0009", 0, 1, "x")])


@st.composite
def texts_and_spans(draw):
    words = draw(st.lists(st.text("ab ,", min_size=1, max_size=6), min_size=1, max_size=8))
    length = len("".join(words).strip())
    cuts = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return words, [(start, stop, f"[{i}]") for i, (start, stop) in enumerate(pairs)]


@given(texts_and_spans())
def test_any_spans_are_replaced_as_in_a_plain_text(case):
    """And no word loses its place: starts stay in order, the first and last times stay."""
    words, spans = case
    before = made(*words)
    text = before.segments[0].text
    result = replaced(before, *spans)
    segment = result.transcript.segments[0]
    expected = text
    for each, (start, stop, replacement) in reversed(
        list(zip(result.replaced, spans, strict=True))
    ):
        assert each.start <= start and stop <= each.stop
        assert (text[each.start : start] + text[stop : each.stop]).strip("ab") == ""
        expected = expected[: each.start] + replacement + expected[each.stop :]

    assert segment.text.strip() == expected.strip()
    starts = [word.start for word in segment.words]
    assert starts == sorted(starts)
    assert (segment.words[0].start, segment.words[-1].end) == (0.0, len(words) - 0.1)
    for each, (_, _, replacement) in zip(result.replaced, spans, strict=True):
        assert "".join(word.text for word in segment.words).lstrip() or not text
        assert expected[each.new_start : each.new_stop] == replacement


def test_captions_keep_their_times():
    before = made(*[f" word{i}" for i in range(40)], " Eva", " Muster", " spoke.")
    start = before.segments[0].text.index("Eva")
    after = replaced(before, (start, start + 10, "P07")).transcript
    label = Label(session="INT-01", release=1)

    def cues(transcript):
        lines = render(transcript, Format.VTT, label).decode().splitlines()
        return [line for line in lines if "-->" in line]

    assert cues(after)[0] == cues(before)[0]
    assert cues(after)[-1].split()[-1] == cues(before)[-1].split()[-1]


def test_nothing_about_the_recording_or_the_people_is_left():
    canary = "Zacharias"
    before = made(
        " Hello.",
        flags=(Flag("low_probability", 0.0, 1.0, {"words": canary, "probability": 0.2}),),
        sources=(Source(0.0, 1.0, "wav", "pcm_s16le", 16000, 1, 640_044, canary, canary, None),),
        made_with=MadeWith(
            "1.2", "demo", "0" * 64, "demo", "0" * 64, canary, {"vocabulary": [canary]}, {}
        ),
        warnings=(canary,),
        written={canary: canary},
        names={"SPEAKER_00": SpeakerName("participant", "P07", canary)},
    )
    before = replace(before, segments=(replace(before.segments[0], checked_by="ZQ1"),))
    after = strip_metadata(before)
    document = to_json(after)

    assert canary in to_json(before)
    assert canary not in document
    assert "ZQ1" not in document
    assert "640044" not in document
    assert after.speakers == ("P07",)
    assert after.flags[0].evidence == {"probability": 0.2}
    assert (after.sources[0].duration, after.duration) == (1.0, 1.0)


def test_a_speaker_is_shown_by_the_chosen_name_that_the_text_uses():
    name = SpeakerName("participant", "P07", "Robin")
    before = made(" Hello.", names={"SPEAKER_00": name})

    assert strip_metadata(before).speakers == ("P07",)
    assert strip_metadata(before, {"P07": "Robin"}).speakers == ("Robin",)
    nameless = replace(before, names={"SPEAKER_00": replace(name, code=None)})
    assert strip_metadata(nameless).speakers == ("Robin",)


def test_a_coding_of_a_paragraph_stays_with_its_paragraph(tmp_path):
    """Texts of all versions have the same paragraphs at the same times, as programs count them."""
    one = made(" I", " met", " Eva", " Muster.").segments[0]
    segments = (one, replace(one, id="s0002"), replace(one, id="s0003", speaker=None))
    before = made(" x", segments=segments)
    names = [Redaction(segment.id, 6, 16, "[PERSON-1: sister]") for segment in segments]
    after = redact(before, names).transcript
    units = []
    for name, transcript in (("before", before), ("after", after)):
        path = tmp_path / f"{name}.qdpx"
        path.write_bytes(render(transcript, Format.QDPX, Label(session="INT-01", release=1)))
        (text,) = read_project(path).texts
        units.append([text.text[slice(*unit)] for unit in text.units])

    assert [line.replace("Eva Muster", "[PERSON-1: sister]") for line in units[0]] == units[1]
    assert len(units[0]) == 3
