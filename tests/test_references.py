import math
from pathlib import Path

import pytest

from models.metrics import Spoken, TimedText
from models.transcript import Turn
from models.transcript_json import to_json
from scripts.make_interview import Interview, ReferenceWord, Utterance
from scripts.references import (
    Annotation,
    BadReference,
    read_entry,
    read_folder,
    read_manifest,
    read_reference,
)
from tests.fakes import segment, transcript

RTTM = "SPEAKER INT-01 1 0.500 1.500 <NA> <NA> I <NA> <NA>\nSPEAKER INT-01 1 2.0 3.0 <NA> <NA> P\n"
STM = (
    ";; corrected in March\n"
    "INT-01 1 I 0.50 2.00 <o,f0> Where do you work?\n"
    "INT-01 1 inter_segment_gap 2.00 2.10 <o>\n"
    "INT-01 1 P 2.10 5.00 At the clinic.\n"
)
CTM = "INT-01 1 0.5 0.2 Where\nINT-01 1 0.8 0.4 you 0.93\nINT-01 1 2.2 0.4 Here\n"


@pytest.fixture
def folder(tmp_path):
    files = {"INT-01.rttm": RTTM, "INT-01.stm": STM, "INT-01.ctm": CTM, "INT-01.wav": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def reference(folder: Path, *names: str) -> Annotation:
    return read_reference([folder / name for name in names], "INT-01")


def test_rttm_gives_turns(folder):
    assert reference(folder, "INT-01.rttm") == Annotation(
        turns=(Turn(0.5, 2.0, "I"), Turn(2.0, 5.0, "P"))
    )


def test_stm_gives_utterances_and_with_them_turns(folder):
    found = reference(folder, "INT-01.stm")

    assert found.utterances == (
        Spoken("I", 0.5, 2.0, "Where do you work?"),
        Spoken("P", 2.1, 5.0, "At the clinic."),
    )
    assert found.turns == (Turn(0.5, 2.0, "I"), Turn(2.1, 5.0, "P"))


def test_turns_of_an_rttm_take_precedence_over_those_of_utterances(folder):
    assert reference(folder, "INT-01.stm", "INT-01.rttm").turns[1] == Turn(2.0, 5.0, "P")


def test_ctm_gives_words_and_with_turns_utterances(folder):
    found = reference(folder, "INT-01.ctm", "INT-01.rttm")

    assert found.words[0] == TimedText("Where", 0.5, 0.7)
    assert [(part.speaker, part.text) for part in found.utterances] == [
        ("I", "Where you"),
        ("P", "Here"),
    ]


def test_a_corrected_transcript_is_a_reference(tmp_path):
    made = transcript([segment("SPEAKER_00", "Where?"), segment("SPEAKER_01", "Here.", 2.0)])
    (tmp_path / "INT-01.json").write_text(to_json(made))
    found = reference(tmp_path, "INT-01.json")

    assert [(part.speaker, part.text) for part in found.utterances] == [
        ("SPEAKER_00", "Where?"),
        ("SPEAKER_01", "Here."),
    ]
    assert found.turns == made.turns


def test_the_files_of_make_interview_are_read_back_unchanged(tmp_path):
    words = (ReferenceWord("Where", 0.5, 0.75, "V1"), ReferenceWord("now?", 0.75, 1.0, "V1"))
    interview = Interview(None, (Utterance("V1", 0.5, 1.125, words),))  # type: ignore[arg-type]
    for ending in ("stm", "ctm", "rttm"):
        (tmp_path / f"x.{ending}").write_text(getattr(interview, ending)("x"))
    found = read_reference([tmp_path / f"x.{e}" for e in ("stm", "ctm", "rttm")], "x")

    assert found.utterances == (Spoken("V1", 0.5, 1.125, "Where now?"),)
    assert found.words == (TimedText("Where", 0.5, 0.75), TimedText("now?", 0.75, 1.0))
    assert found.turns == (Turn(0.5, 1.125, "V1"),)


def test_a_file_with_several_recordings_must_name_this_one(folder):
    (folder / "all.rttm").write_text(RTTM + "SPEAKER INT-02 1 0 1 <NA> <NA> Q <NA> <NA>\n")

    assert reference(folder, "all.rttm").n_speakers == 2
    with pytest.raises(BadReference, match="none is called INT-03"):
        read_reference([folder / "all.rttm"], "INT-03")


def test_a_manifest_has_a_recording_on_each_line(folder):
    (folder / "FG 1.wav").write_text("")
    (folder / "list.txt").write_text(
        "# our interviews\n"
        "INT-01.wav INT-01.stm INT-01.rttm speakers=2 group=interviews\n\n"
        '"FG 1.wav" INT-01.rttm  # not yet corrected\n'
    )
    first, second = read_manifest(folder / "list.txt")

    assert first.references == (folder / "INT-01.stm", folder / "INT-01.rttm")
    assert (first.options["speakers"], first.group) == ("2", "interviews")
    assert (second.audio.name, second.group) == ("FG 1.wav", "recordings")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("INT-01.wav", "at least one reference"),
        ("INT-01.wav INT-09.stm", "there is no file"),
        ("INT-01.wav INT-01.wav", "one of .stm"),
        ("INT-01.wav INT-01.stm speaker=2", "unknown option speaker=; the options are speakers"),
        ("INT-01.wav INT-01.stm channels=both", "auto, mix or split"),
        ('"INT-01.wav', "line 1"),
        ("# nothing", "no recording"),
    ],
)
def test_the_error_names_an_unusable_line(folder, line, message):
    (folder / "list.txt").write_text(line)
    with pytest.raises(BadReference, match=message):
        read_manifest(folder / "list.txt")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.rttm", "SPEAKER a 1 zero 1 <NA> <NA> Q"),
        ("x.stm", "a 1 Q 0.0"),
        ("x.json", "{}"),
        ("x.json", "[]"),
        ("x.json", "null"),
        ("x.json", ""),
    ],
)
def test_the_error_names_an_unreadable_reference(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadReference, match=name):
        read_reference([tmp_path / name], "a")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("x.stm", "a 1 Q 2.0 1.0 hello"),
        ("x.stm", "a 1 Q 0.0 nan hello"),
        ("x.stm", "a 1 Q 0.0 1.0 { hello / hallo } there"),
        ("x.ctm", "a 1 1.0 -0.2 hello"),
        ("x.ctm", "a 1 inf 0.2 hello"),
        ("x.ctm", "a 1 * * <ALT_BEGIN>"),
        ("x.rttm", "SPEAKER a 1 1.0 -1.0 <NA> <NA> Q"),
        ("x.rttm", "SPEAKER a 1 nan 1.0 <NA> <NA> Q"),
    ],
)
def test_the_error_names_a_line_with_impossible_values(tmp_path, name, line):
    """Each used to be measured as if it were valid."""
    (tmp_path / name).write_text(f";; corrected in March\n{line}\n")
    with pytest.raises(BadReference, match=f"{name}, line 2: "):
        read_reference([tmp_path / name], "a")


def test_noise_in_braces_is_no_alternative(tmp_path):
    (tmp_path / "x.stm").write_text("a 1 Q 0.0 1.0 {NOISE} either/or {SMACK}\n")

    assert read_reference([tmp_path / "x.stm"], "a").utterances[0].text.startswith("{NOISE}")


def test_the_error_names_a_transcript_with_impossible_times(tmp_path):
    for times in ((2.0, 1.0), (0.0, math.nan)):
        made = transcript([segment("SPEAKER_00", "Where?")], turns=(Turn(*times, "SPEAKER_00"),))
        (tmp_path / "x.json").write_text(to_json(made))
        with pytest.raises(BadReference, match=r"x\.json: "):
            read_reference([tmp_path / "x.json"], "x")


def test_a_corrected_transcript_may_start_with_a_byte_order_mark(tmp_path):
    made = transcript([segment("SPEAKER_00", "Where?")])
    (tmp_path / "x.json").write_text(to_json(made), encoding="utf-8-sig")

    assert read_reference([tmp_path / "x.json"], "x").utterances[0].text == "Where?"


def test_an_empty_turn_does_not_count_as_a_speaker(tmp_path):
    (tmp_path / "x.rttm").write_text(RTTM + "SPEAKER INT-01 1 3.0 0 <NA> <NA> Q <NA> <NA>\n")

    assert reference(tmp_path, "x.rttm").n_speakers == 2


def test_a_word_far_from_every_turn_has_no_speaker(folder):
    (folder / "far.ctm").write_text(CTM + "INT-01 1 9.0 0.4 Hello\n")

    assert reference(folder, "far.ctm", "INT-01.rttm").utterances[-1] == Spoken(
        None, 9.0, 9.4, "Hello"
    )


def test_a_folder_is_a_manifest_of_the_recordings_that_have_a_reference(tmp_path):
    (tmp_path / "read").mkdir()
    for name in ("read/a.flac", "read/b.mp3", "noise.wav", "unknown.wav"):
        (tmp_path / name).touch()
    (tmp_path / "read/b.txt").write_text("My name\nis Eva.\n")
    (tmp_path / "noise.txt").touch()
    (tmp_path / "SOURCES.tsv").write_text(
        'file\tgroup\tlanguage\tsource\treference\na.flac\tread\tde\tbook\tEr sagte "ja".\n'
    )

    noise, first, second = read_folder(tmp_path)

    assert (first.audio.name, first.group, first.options["language"]) == ("a.flac", "read", "de")
    assert read_entry(first) == Annotation(text='Er sagte "ja".')
    assert read_entry(second) == Annotation(text="My name is Eva.")
    assert read_entry(noise) == Annotation()  # nobody speaks


def test_a_reference_in_a_folder_may_name_several_recordings(tmp_path):
    lines = [f"SPEAKER {name} 1 0.5 1.5 <NA> <NA> I" for name in ("tst00", "tst01", "other")]
    (tmp_path / "debug.test.rttm").write_text("\n".join(lines))
    for name in ("tst00.flac", "tst01.flac", "unknown.flac"):
        (tmp_path / name).touch()
    (tmp_path / "tst01.json").write_text('{"duration": 30}')  # of another program

    found = read_folder(tmp_path)

    assert [entry.audio.name for entry in found] == ["tst00.flac", "tst01.flac"]
    assert [read_entry(entry).turns for entry in found] == [(Turn(0.5, 2.0, "I"),)] * 2


def test_a_folder_without_references_is_refused(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(BadReference, match="holds no recording with a reference"):
        read_folder(tmp_path)
