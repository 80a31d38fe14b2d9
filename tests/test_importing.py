"""Transcripts from elsewhere: read in every format, aligned with our words."""

import io
import time
import zipfile
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.corrections import apply
from models.importing import AnotherRecording, Turn, align_import
from models.retiming import match_keys
from models.speaker_names import show_names
from models.transcript import Overlap, Segment, SpeakerName, Transcript, Word
from service.errors import TranscriptNotReadable
from service.exports import Format, Label, render
from service.imports import ImportedTurn, read_turns
from tests.fakes import segment, transcript

SAID = [
    ("SPEAKER_00", "Good morning. How did you come to this work?"),
    ("SPEAKER_01", "Well, I was at the peer clinic for three years."),
    ("SPEAKER_01", "There is one thing: I left because of my boss."),
    ("SPEAKER_00", "Right."),
    ("SPEAKER_01", "It was a hard time, and nobody on the ward knew what we are for."),
    (None, "Mm."),
    ("SPEAKER_00", "What would you change about the ward?"),
]


def interview() -> Transcript:
    made = [segment(speaker, text, 10.0 * i) for i, (speaker, text) in enumerate(SAID)]
    names = {"SPEAKER_00": SpeakerName("interviewer", "I1"), "SPEAKER_01": SpeakerName(code="P07")}
    overlaps = (Overlap(10.0, 12.0, ("SPEAKER_00", "SPEAKER_01")),)
    return transcript(made, duration=80.0, names=names, overlaps=overlaps)


def export(made: Transcript, format: Format) -> bytes:
    return render(show_names(made), format, Label(session="INT-07", study="PEER", version=1))


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_turns(path)


def imported(made, turns):
    found = align_import(made, [Turn(t.speaker, t.text, t.start) for t in turns])
    return found, made if found.change.is_empty else apply(made, found.change)


def said(made: Transcript) -> list[tuple[str, str | None, str]]:
    return [(one.id, one.speaker, one.text) for one in made.segments]


BACK = {
    Format.TXT: "INT-07.identified.txt",
    Format.DOCX: "a.docx",
    Format.NVIVO: "b.docx",
    Format.HEADINGS: "c.docx",
    Format.VTT: "a.vtt",
    Format.SRT: "a.srt",
    Format.MAXQDA: "d.txt",
    Format.ATLAS: "e.txt",
}


@pytest.mark.parametrize("format", BACK)
def test_an_export_that_nobody_corrected_changes_nothing(tmp_path, format):
    made = interview()
    found, after = imported(made, read(tmp_path, BACK[format], export(made, format)))

    assert found.change.replacements == ()
    assert said(after) == said(made)
    assert (found.unmatched, found.removed, found.matched) == ((), (), 1.0)


@pytest.mark.parametrize("format", [Format.TXT, Format.VTT, Format.SRT, Format.MAXQDA])
def test_a_corrected_text_changes_only_what_was_corrected(tmp_path, format):
    made = interview()
    content = export(made, format).decode().replace("boss", "sister").replace("hard time", "time")
    _, after = imported(made, read(tmp_path, BACK[format], content))

    expected = [
        (s, text.replace("boss", "sister").replace("hard time", "time")) for s, text in SAID
    ]
    assert [(speaker, text) for _, speaker, text in said(after)] == expected
    assert [one.id for one in after.segments] == [one.id for one in made.segments]
    changed = {w.text for w in after.words if w.placed}
    assert changed == {" sister."}
    heard = {(w.text, w.start, w.end) for w in made.words}
    assert all((w.text, w.start, w.end) in heard for w in after.words if not w.placed)


def test_a_correction_in_word_comes_back(tmp_path):
    made = interview()
    source = io.BytesIO(export(made, Format.DOCX))
    target = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "word/document.xml":
                content = content.replace(b"the peer clinic", b"the beer clinic")
            new.writestr(name, content)
    _, after = imported(made, read(tmp_path, "a.docx", target.getvalue()))

    assert after.segments[1].text == "Well, I was at the beer clinic for three years."
    assert [one for one in after.segments if one.id != "s0002"] == [
        one for one in made.segments if one.id != "s0002"
    ]


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(body: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        document = f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
        archive.writestr("word/document.xml", document)
    return file.getvalue()


def paragraph(*runs: str) -> str:
    return f"<w:p>{''.join(f'<w:r><w:t>{run}</w:t></w:r>' for run in runs)}</w:p>"


def test_tracked_changes_count_as_accepted(tmp_path):
    tracked = (
        "<w:p><w:r><w:t>I1: I was at the </w:t></w:r>"
        "<w:del><w:r><w:delText>pear</w:delText></w:r><w:r><w:t>old</w:t></w:r></w:del>"
        "<w:ins><w:r><w:t>peer</w:t></w:r></w:ins><w:r><w:t> clinic.</w:t></w:r></w:p>"
    )

    assert read(tmp_path, "a.docx", docx(tracked)) == [
        ImportedTurn("I1", "I was at the peer clinic.")
    ]


def test_somebody_elses_document_with_names_is_read(tmp_path):
    body = paragraph("Interview with the nurse") + paragraph("Anna (01:02): ", "Hello.")
    body += paragraph("Ben: ", "Hi.") + paragraph("And welcome.") + paragraph("Anna: Thanks.")
    body += paragraph("Ben: Bye.")

    assert read(tmp_path, "a.docx", docx(body)) == [
        ImportedTurn(None, "Interview with the nurse"),
        ImportedTurn("Anna", "Hello.", 62.0),
        ImportedTurn("Ben", "Hi."),
        ImportedTurn("Ben", "And welcome."),
        ImportedTurn("Anna", "Thanks."),
        ImportedTurn("Ben", "Bye."),
    ]


NOSCRIBE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.0//EN">
<html><head><meta charset="UTF-8" /><meta name="qrichtext" content="1" />
<meta name="audio_source" content="/home/me/a.m4a" /></head><body>
<p style="font-weight: 600">a</p><p><span>Transcribed with noScribe<br />Audio file: a</span></p>
<p></p><p><a name="ts_690_2070_S00">S00: <span>[00:00:00]</span> Good morning &amp; welcome.</a><a
 name="ts_2070_2900_S00"> (..) One thing: sit.</a></p>
<p><a name="ts_3000_4000_">(4 seconds pause)</a></p>
<p><a name="ts_5000_6000_S01">Anna [00:00:05]: Thanks //S00: mm// a lot.</a></p>
<p><a name="ts_7000_8000_S01">Anna: Yes.</a></p></body></html>"""


def test_noscribes_html_is_read_with_its_times(tmp_path):
    assert read(tmp_path, "a.html", NOSCRIBE) == [
        ImportedTurn("S00", "Good morning & welcome. One thing: sit.", 0.69),
        ImportedTurn("Anna", "Thanks S00: mm a lot.", 5.0),
        ImportedTurn("Anna", "Yes.", 7.0),
    ]


def test_subtitles_without_names_and_with_tags_are_read(tmp_path):
    srt = "1\n00:00:01,000 --> 00:00:02,000 X1:1\n<i>Good</i>\nmorning.\n\n"
    srt += "2\n0:00:03,5 --> 0:00:04,0\n{\\an8}Yes."
    vtt = "WEBVTT\n\nNOTE a\n\n1\n00:01.000 --> 00:02.000 align:left\n"
    vtt += "<v.loud Anna>Good &amp; well</v>\n\n00:03.000 --> 00:04.000\nYes"

    assert read(tmp_path, "a.srt", srt) == [
        ImportedTurn(None, "Good morning.", 1.0),
        ImportedTurn(None, "Yes.", 3.5),
    ]
    assert read(tmp_path, "a.vtt", vtt) == [
        ImportedTurn("Anna", "Good & well", 1.0),
        ImportedTurn(None, "Yes", 3.0),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.rtf", "x", "Only .docx"),
        ("a.txt", b"{\\rtf1 x}", "RTF"),
        ("a.txt", b"caf\xe9", "UTF-8"),
        ("a.txt", b"a\0b", "not text"),
        ("a.txt", "", "nothing that anybody says"),
        ("a.docx", b"PK", "cannot be read"),
        ("a.docx", docx("<w:p>")[:-30], "cannot be read"),
        ("a.html", "<p>Hello</p>", "noScribe"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path, name, content, message):
    with pytest.raises(TranscriptNotReadable, match=message):
        read(tmp_path, name, content)


def test_utf_16_and_windows_line_ends_are_read(tmp_path):
    text = "P07: Grüße.\r\nI1: Ja.\r\n"

    for encoding in ("utf-16", "utf-8-sig"):
        assert read(tmp_path, "a.txt", text.encode(encoding)) == [
            ImportedTurn("P07", "Grüße."),
            ImportedTurn("I1", "Ja."),
        ]


# --- alignment ------------------------------------------------------------------------------------


def test_a_turn_that_was_divided_between_two_people_is_split_at_the_word():
    made = interview()
    turns = [
        Turn({"SPEAKER_00": "I1", "SPEAKER_01": "P07", None: "unknown"}[s], t) for s, t in SAID
    ]
    turns[4:5] = [
        Turn("P07", "It was a hard time,"),
        Turn("I1", "and nobody on the ward knew what we are for."),
    ]
    found, after = imported(made, turns)

    assert said(after)[4:6] == [
        ("s0005", "SPEAKER_01", "It was a hard time,"),
        ("c2.1", "SPEAKER_00", "and nobody on the ward knew what we are for."),
    ]
    assert after.words == made.words
    assert len(found.change.replacements) == 1


def test_what_does_not_align_is_listed_and_placed_between_its_neighbours():
    made = interview()
    turns = [Turn(None, text) for _, text in SAID]
    turns.insert(2, Turn("SPEAKER_00", "Gosh!"))
    del turns[-1]  # What would you change about the ward?
    found, after = imported(made, turns)

    assert found.unmatched == (2,)
    assert found.removed == ("s0007",)
    assert said(after)[2] == ("c2.1", "SPEAKER_00", "Gosh!")
    new = after.segments[2]
    assert after.segments[1].end <= new.start <= new.end <= after.segments[3].start
    assert all(word.placed for word in new.words)


def test_names_of_another_program_are_taken_for_those_whose_words_they_say():
    made = replace(interview(), names={})
    other = {"SPEAKER_00": "S01", "SPEAKER_01": "P07", None: None}
    turns = [Turn(other[s], t) for s, t in SAID]
    turns[3] = Turn("Ben", "Right.")  # diarisation took two people for one
    found, after = imported(made, turns)

    assert found.labels == {"S01": "SPEAKER_00", "P07": "SPEAKER_01", "Ben": "SPEAKER_02"}
    assert after.segments[3].speaker == "SPEAKER_02"
    assert after.speakers == ("SPEAKER_00", "SPEAKER_01", "SPEAKER_02")
    assert after.names == {
        "SPEAKER_01": SpeakerName(code="P07"),
        "SPEAKER_00": SpeakerName(code="S01"),
    }


def test_another_recordings_transcript_is_refused():
    with pytest.raises(AnotherRecording):
        imported(
            interview(), [Turn("A", "Completely different things were discussed here, twice.")]
        )


def test_segments_without_words_stay_because_no_export_has_them():
    made = interview()
    empty = Segment("SPEAKER_00", 35.0, 36.0, (), "s0099")
    made = replace(made, segments=(*made.segments[:4], empty, *made.segments[4:]))
    found, _ = imported(made, [Turn(None, text) for _, text in SAID])

    assert found.change.is_empty and found.removed == ()


def test_a_turn_that_replaces_another_keeps_its_place():
    made = interview()
    turns = [Turn(None, text.replace("Right.", "Okay, fine.")) for _, text in SAID]
    found, after = imported(made, turns)

    assert (found.unmatched, found.removed) == ((3,), ())
    assert said(after)[3] == ("s0004", "SPEAKER_00", "Okay, fine.")
    assert after.segments[3].start == made.segments[3].start


def test_a_replaced_first_word_stays_in_its_segment():
    made = interview()
    turns = [
        Turn(None, text.replace("Right.", "Wrong.").replace("There is", "Here is"))
        for _, text in SAID
    ]
    _, after = imported(made, turns)

    assert [text for *_, text in said(after)] == [turn.text for turn in turns]


WORDS = ["yes", "no", "the", "ward", "clinic", "𝄞", "peer-led", "今天"]


@settings(max_examples=80)
@given(st.data())
def test_any_import_says_what_the_text_says_and_keeps_the_order(data):
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
    speakers = st.sampled_from(["A", "B", None])
    made = transcript(
        [
            segment(data.draw(speakers), text, 10.0 * i)
            for i, text in enumerate(data.draw(st.lists(texts, min_size=1, max_size=5)))
        ],
        duration=60.0,
    )
    turns = [
        Turn(data.draw(speakers), t) for t in data.draw(st.lists(texts, min_size=1, max_size=5))
    ]
    try:
        found, after = imported(made, turns)
    except AnotherRecording:
        return
    written = " ".join(one.text for one in after.segments if one.text)
    assert "".join(written.split()) == "".join("".join(turn.text.split()) for turn in turns)
    assert all(a.start <= b.start for a, b in pairwise(after.segments))
    for one in after.segments:
        assert all(one.start <= w.start <= w.end <= one.end for w in one.words)
    if not found.change.is_empty:
        assert apply(after, found.change.invert("undo")).segments == made.segments


def test_long_texts_are_aligned_as_short_ones_are():
    random = Random(5)
    vocabulary = [f"w{int(random.expovariate(0.02))}" for _ in range(400)]
    a = [random.choice(vocabulary) for _ in range(700)]
    b = [
        w if random.random() > 0.1 else random.choice(["new", w + "s"])
        for w in a
        if random.random() > 0.05
    ]
    pairs = match_keys(a, b)

    assert all(a[i] == b[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    assert len(pairs) > 0.8 * len(a)


def test_a_long_interview_is_aligned_in_seconds():
    random = Random(3)
    common = ["the", "and", "I", "was", "it", "you", "so", "of"]
    vocabulary = common * 30 + [f"word{i}" for i in range(2000)]
    segments = []
    for i in range(800):
        own = [
            Word(f" {random.choice(vocabulary)}", 10.0 * i + 0.3 * k, 10.0 * i + 0.3 * k + 0.2, 0.9)
            for k in range(25)
        ]
        segments.append(Segment("SPEAKER_00", own[0].start, own[-1].end, tuple(own)))
    made = transcript(segments, duration=8000.0)
    turns = [Turn(None, one.text.replace("the", "a").replace("word7", "Wort7")) for one in segments]
    started = time.process_time()
    _, after = imported(made, turns)

    assert time.process_time() - started < 10
    assert [one.text for one in after.segments] == [turn.text for turn in turns]
