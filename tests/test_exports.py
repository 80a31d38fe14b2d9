"""The formats of a transcript, and writing them to files."""

import html
import re
import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.transcript import Flag, Overlap, Segment, Transcript, Word
from service.exports import DEFAULT_FORMATS, SPECS, ExportOptions, Format, Label, render
from service.exports.captions import (
    MAX_CUE_SECONDS,
    MAX_LINE_WIDTH,
    MAX_LINES,
    cues,
    width_of,
    wrap,
)
from service.exports.files import write_whole
from service.exports.overlap_index import OverlapIndex
from service.exports.text import FLAGS
from tests.fakes import segment, transcript

LABEL = Label(session="INT-07", study="PEER", version=3)


def shown(made: Transcript, format: str, **options: Any) -> str:
    return render(made, Format(format), LABEL, ExportOptions(**options)).decode()


def txt(made: Transcript) -> str:
    return shown(made, "txt")


def vtt(made: Transcript) -> str:
    return shown(made, "vtt")


def srt(made: Transcript) -> str:
    return shown(made, "srt")


def test_text_has_a_line_per_segment_with_time_and_speaker():
    lines = txt(
        transcript([segment("SPEAKER_00", "Where?"), segment(None, "Here.", 3725.0)])
    ).splitlines()

    assert "[00:00:00] SPEAKER_00: Where?" in lines
    assert "[01:02:05] unknown: Here." in lines


def test_text_says_that_it_is_identified_and_shows_warnings_and_flags():
    made = transcript(
        [segment("SPEAKER_00", "Where?")],
        warnings=("Two speakers were found.",),
        flags=(Flag("loop", 0.0, 20.0, {"compression_ratio": 3.1}),),
    )
    text = shown(made, "statistics")

    assert txt(made).startswith("IDENTIFIED")
    assert "WARNING. Two speakers were found." in txt(made)
    assert text.startswith("IDENTIFIED")
    assert "[00:00:00 - 00:00:20] the text repeats itself (compression_ratio 3.1)" in text


def test_text_has_a_line_per_speaker_with_a_suggested_role():
    asks = segment("SPEAKER_01", "Where? When? And why?")
    made = transcript([asks, segment("SPEAKER_00", "Here. In March.", 3.0)])
    text = shown(made, "statistics")

    assert "SPEAKER_00: 00:00:00 (43%), 1 turn, 3 words\n" in text
    assert "1 turn, 4 words; perhaps the interviewer: asks 100% of the questions\n" in text


def test_text_marks_overlapping_speakers():
    text = txt(
        transcript(
            [segment("SPEAKER_00", "Where do you work?")],
            overlaps=(Overlap(0.5, 0.8, ("SPEAKER_00", "SPEAKER_01")),),
        )
    )

    assert "Where do you work? [overlap with SPEAKER_01]" in text


def test_an_overlapping_speaker_without_words_is_marked():
    made = transcript(
        [segment("SPEAKER_00", "Where do you work?")],
        overlaps=(Overlap(0.2, 0.9, ("SPEAKER_00", "SPEAKER_01"), ("SPEAKER_01",)),),
    )

    assert "work? [overlap with SPEAKER_01; no words of SPEAKER_01]" in txt(made)
    assert "<v SPEAKER_00>Where do you work? [SPEAKER_01 speaks too]" in vtt(made)


def test_every_kind_of_flag_has_a_description():
    import inspect

    from models import quality

    kinds = set(re.findall(r'Flag\(\s*"(\w+)"', inspect.getsource(quality)))

    assert kinds == set(FLAGS)


def test_vtt_names_speakers_and_escapes_markup():
    text = vtt(transcript([segment("SPEAKER_00", "a <b> & c", 61.5)]))

    assert text.startswith("WEBVTT\n\n")
    assert "00:01:01.500 --> 00:01:02.700\n<v SPEAKER_00>a &lt;b&gt; &amp; c\n" in text


def test_srt_is_numbered_and_uses_decimal_commas():
    text = srt(transcript([segment("SPEAKER_00", "one"), segment("SPEAKER_01", "two", 2.0)]))

    assert text == (
        "1\n00:00:00,000 --> 00:00:00,833\nSPEAKER_00: one\n\n"
        "2\n00:00:02,000 --> 00:00:02,833\nSPEAKER_01: two\n"
    )


@given(st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=80))
def test_cues_hold_every_word_once_in_order_within_the_limits(texts):
    words = tuple(Word(f" {text}", i * 0.4, i * 0.4 + 0.4, 0.9) for i, text in enumerate(texts))
    made = list(cues(transcript([Segment("A", 0.0, words[-1].end, words)])))

    assert " ".join(cue.text for cue in made) == " ".join(texts)
    assert all(cue.end - cue.start <= MAX_CUE_SECONDS + 1e-6 for cue in made)
    assert all(len(wrap(f"A: {cue.text}")) <= MAX_LINES for cue in made)


def times_and_lines(text: str) -> list[tuple[str, list[str]]]:
    """The start and the lines of text of each cue."""
    blocks = [block.split("\n") for block in text.strip().split("\n\n") if " --> " in block]
    found = []
    for block in blocks:
        at = next(i for i, line in enumerate(block) if re.match(r"[\d:.,]+ --> ", line))
        lines = [html.unescape(re.sub(r"^<v [^>]*>", "", line)) for line in block[at + 1 :]]
        found.append((block[at].split(" --> ")[0], lines))
    return found


@pytest.mark.parametrize("write", [srt, vtt])
def test_cues_begin_in_order_although_somebody_interrupts_a_long_segment(write):
    """WebVTT, 4.1. The `Yes.` at 5 s came after the cue of 19.6 s."""
    speech = tuple(Word(f" word{i}", i * 0.4, i * 0.4 + 0.4, 0.9) for i in range(50))
    made = transcript([Segment("A", 0.0, 20.0, speech), segment("B", "Yes.", 5.0)])
    starts = [start for start, _ in times_and_lines(write(made))]

    assert starts == sorted(starts)
    assert sum("Yes." in " ".join(lines) for _, lines in times_and_lines(write(made))) == 1


def test_a_cue_begins_with_its_earliest_word():
    late, early = Word(" zero", 9.0, 9.0, 0.9), Word(" back", 6.0, 6.5, 0.9)

    assert [cue.start for cue in cues(transcript([Segment("A", 6.0, 9.0, (late, early))]))] == [6.0]


CHINESE = "我们在医院工作了九年，每天都帮助别人。" * 6
TEXTS = {
    "latin": "This is a fairly long sentence with a number of words so that it takes two lines.",
    "chinese": CHINESE,
    "long word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamten" * 3,
    "accents": "e\u0301" * 60 + " and more",
    "line breaks": "one\u2028two\r\n\n\nthree\nfour",
}


@pytest.mark.parametrize("speaker", ["SPEAKER_00", "interviewer from the second hospital, 12"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("write", [srt, vtt])
def test_captions_have_two_lines_of_42_columns_at_most(write, text, speaker):
    parts = list(text) if text == CHINESE else [f" {part}" for part in text.split(" ")]
    own = tuple(Word(part, i * 0.15, i * 0.15 + 0.15, 0.9) for i, part in enumerate(parts))
    cue_lines = times_and_lines(write(transcript([Segment(speaker, 0.0, own[-1].end, own)])))

    assert all(1 <= len(lines) <= MAX_LINES for _, lines in cue_lines)
    assert all(width_of(line) <= MAX_LINE_WIDTH for _, lines in cue_lines for line in lines)
    spoken = "".join("".join(lines) for _, lines in cue_lines)
    assert all(letter in spoken for letter in "".join(text.split()))


def test_wide_characters_count_twice_and_a_full_stop_begins_no_line():
    assert wrap("我" * 20 + "们。") == ["我" * 20, "们。"]
    assert width_of("AT&T") == 4


def test_a_note_on_unheard_speakers_that_does_not_fit_is_a_cue_of_its_own():
    unheard = tuple(f"SPEAKER_0{i}" for i in range(1, 5))
    made = transcript(
        [segment("SPEAKER_00", "a word or two more than one line of a caption can hold here")],
        overlaps=(Overlap(0.2, 0.9, ("SPEAKER_00", *unheard), unheard),),
    )
    cue_lines = times_and_lines(vtt(made))

    assert all(len(lines) <= MAX_LINES for _, lines in cue_lines)
    text = " ".join(line for _, lines in cue_lines for line in lines)
    assert all(f"[{speaker} speaks too]" in text for speaker in unheard)


def test_an_arrow_in_the_text_of_subrip_begins_no_cue():
    text = srt(transcript([segment("A", "00:00:01,000 --> 00:00:02,000")]))

    assert text.count("-->") == 1


def test_a_hyphenated_word_stays_in_one_cue():
    texts = [*[" abcdefghi"] * 7, " peer", "-led", " group."]
    own = tuple(Word(text, i * 0.4, i * 0.4 + 0.4, 0.9) for i, text in enumerate(texts))
    made = list(cues(transcript([Segment("A", 0.0, own[-1].end, own)])))

    assert len(made) > 1
    assert any("peer-led" in cue.text for cue in made)


def test_text_without_spaces_between_words_gets_none():
    japanese = tuple(Word(text, i * 0.3, i * 0.3 + 0.3, 0.9) for i, text in enumerate("私は看護師"))
    made = transcript([Segment("A", 0.0, 1.5, japanese)])

    assert "A: 私は看護師" in txt(made)
    assert "<v A>私は看護師" in vtt(made)


TEXTS_ONLY = [
    format
    for format, spec in SPECS.items()
    if spec.media_type.startswith(("text/", "application/json", "application/x-subrip"))
]


@pytest.mark.parametrize("format", sorted(set(TEXTS_ONLY) - {Format.STATISTICS}))
def test_every_format_contains_every_word(format):
    made = transcript([segment("SPEAKER_00", "one two"), segment("SPEAKER_01", "three", 4.0)])
    text = shown(made, format)

    assert all(word.text.strip() in text for word in made.words)


def test_json_and_the_texts_are_the_default_formats():
    assert list(DEFAULT_FORMATS) == ["json", "txt", "statistics", "vtt", "srt"]


def test_a_file_is_written_whole_and_readable_only_by_its_owner(tmp_path):
    path = tmp_path / "INT-07.identified.txt"
    write_whole(path, "first")
    write_whole(path, "second")

    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "INT-07.identified.txt"
    write_whole(path, "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "second")

    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


TIMES = st.integers(0, 40).map(lambda tenths: tenths / 10)


@given(
    st.lists(st.tuples(TIMES, TIMES).map(lambda pair: Overlap(min(pair), max(pair), ("A", "B")))),
    st.tuples(TIMES, TIMES).map(sorted),
)
def test_the_overlaps_of_a_time_are_those_that_a_search_through_all_finds(overlaps, time):
    start, end = time
    index = OverlapIndex(overlaps)

    during = [each for each in overlaps if each.start < end and each.end > start]
    centred = [each for each in overlaps if start <= (each.start + each.end) / 2 < end]

    def key(overlap):
        return (overlap.start, overlap.end)

    assert sorted(index.during(start, end), key=key) == sorted(during, key=key)
    assert sorted(index.centred(start, end), key=key) == sorted(centred, key=key)


@pytest.mark.parametrize("write", [txt, vtt])
def test_a_long_transcript_is_rendered_in_linear_time(write, monkeypatch):
    """Every cue once looked at every overlap: eight hours of a group took minutes."""
    n_looks = 0

    class Counted(Overlap):
        def __getattribute__(self, name):
            nonlocal n_looks
            n_looks += name in ("start", "end")
            return super().__getattribute__(name)

    n = 500
    overlaps = tuple(
        Counted(3.0 * i, 3.0 * i + 0.5, ("SPEAKER_00", "SPEAKER_01")) for i in range(n)
    )
    segments = [segment("SPEAKER_00", "a few words", 3.0 * i) for i in range(n)]
    write(transcript(segments, overlaps=overlaps, duration=3.0 * n))

    assert n_looks < 40 * n
