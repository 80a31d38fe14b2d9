"""The formats of a transcript, and writing them to files."""

import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.transcript import Flag, Overlap, Segment, Word
from service.exports import FORMATS
from service.exports.captions import MAX_CUE_CHARACTERS, MAX_CUE_SECONDS, cues, srt, vtt
from service.exports.files import write_whole
from service.exports.text import FLAGS, txt
from tests.fakes import segment, transcript


def test_text_has_a_line_per_segment_with_time_and_speaker():
    lines = txt(
        transcript([segment("SPEAKER_00", "Where?"), segment(None, "Here.", 3725.0)])
    ).splitlines()

    assert "[0:00:00] SPEAKER_00: Where?" in lines
    assert "[1:02:05] unknown: Here." in lines


def test_text_says_that_it_is_identified_and_shows_warnings_and_flags():
    text = txt(
        transcript(
            [segment("SPEAKER_00", "Where?")],
            warnings=("Two speakers were found.",),
            flags=(Flag("loop", 0.0, 20.0, {"compression_ratio": 3.1}),),
        )
    )

    assert text.startswith("IDENTIFIED")
    assert "WARNING: Two speakers were found." in text
    assert "[0:00:00 - 0:00:20] the text repeats itself (compression_ratio 3.1)" in text


def test_text_has_a_line_per_speaker_with_a_suggested_role():
    asks = segment("SPEAKER_01", "Where? When? And why?")
    text = txt(transcript([asks, segment("SPEAKER_00", "Here. In March.", 3.0)]))

    assert "SPEAKER_00: 0:00:00 (43%), 1 turn, 3 words\n" in text
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
        "1\n00:00:00,000 --> 00:00:00,300\nSPEAKER_00: one\n\n"
        "2\n00:00:02,000 --> 00:00:02,300\nSPEAKER_01: two\n"
    )


@given(st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=80))
def test_cues_hold_every_word_once_in_order_within_the_limits(texts):
    words = tuple(Word(f" {text}", i * 0.4, i * 0.4 + 0.4, 0.9) for i, text in enumerate(texts))
    made = list(cues(transcript([Segment("A", 0.0, words[-1].end, words)])))

    assert " ".join(cue.text for cue in made) == " ".join(texts)
    assert all(cue.end - cue.start <= MAX_CUE_SECONDS + 1e-6 for cue in made)
    assert all(len(cue.text) <= MAX_CUE_CHARACTERS for cue in made)


def test_text_without_spaces_between_words_gets_none():
    japanese = tuple(Word(text, i * 0.3, i * 0.3 + 0.3, 0.9) for i, text in enumerate("私は看護師"))
    made = transcript([Segment("A", 0.0, 1.5, japanese)])

    assert "A: 私は看護師" in txt(made)
    assert "<v A>私は看護師" in vtt(made)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_contains_every_word(format):
    made = transcript([segment("SPEAKER_00", "one two"), segment("SPEAKER_01", "three", 4.0)])
    text = FORMATS[format](made)

    assert all(word.text.strip() in text for word in made.words)


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
