"""Files in batch mode that a person has changed are kept."""

import json
from dataclasses import replace

import pytest

from models.transcript import SpeakerName
from models.transcript_json import from_json
from service.batch.outputs import read_earlier, write_outputs
from service.exports import Format, Label
from tests.finished import conversation

LABEL = Label(session="INT-07")


def write(folder, made=None, *, formats=(Format.TXT, Format.SRT), **options):
    base = folder / "INT-07.identified"
    earlier = read_earlier(base.with_name(f"{base.name}.json"))
    return write_outputs(made or conversation(), base, formats, LABEL, earlier=earlier, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def other():  # the same recording, another result
    first, *rest = conversation().segments
    return replace(conversation(), segments=(replace(first, speaker="SPEAKER_01"), *rest))


def test_a_file_that_nobody_changed_is_replaced(tmp_path):
    write(tmp_path)
    outputs = write(tmp_path, other())

    assert outputs.kept == ()
    assert names(tmp_path) == [f"INT-07.identified.{ext}" for ext in ("json", "srt", "txt")]
    assert "SPEAKER_01: Good morning." in (tmp_path / "INT-07.identified.txt").read_text()


def test_a_file_that_a_person_changed_is_kept_and_the_new_one_has_another_name(tmp_path):
    write(tmp_path)
    text = tmp_path / "INT-07.identified.txt"
    text.write_text(text.read_text().replace("Eva", "Ida"))
    (kept,) = write(tmp_path, other()).kept
    again = write(tmp_path, conversation())

    assert (kept.kept.name, kept.written.name) == (
        "INT-07.identified.txt",
        "INT-07.identified-2.txt",
    )
    assert "Ida" in text.read_text()
    assert [each.written.name for each in again.kept] == ["INT-07.identified-2.txt"]
    assert "SPEAKER_00: Good morning." in kept.written.read_text()


def test_a_changed_second_file_is_kept_too(tmp_path):
    write(tmp_path)
    for name in ("INT-07.identified.txt", "INT-07.identified-2.txt"):
        (tmp_path / name).write_text("mine")
    (kept,) = write(tmp_path, other()).kept

    assert kept.written.name == "INT-07.identified-3.txt"
    assert (tmp_path / "INT-07.identified-2.txt").read_text() == "mine"


def test_a_file_of_which_nothing_is_known_is_kept(tmp_path):
    (tmp_path / "INT-07.identified.txt").write_text("from an earlier release")

    assert write(tmp_path).kept[0].written.name == "INT-07.identified-2.txt"


def test_missing_formats_are_added_and_recorded(tmp_path):
    write(tmp_path, formats=(Format.TXT,))
    path = tmp_path / "INT-07.identified.json"
    write(tmp_path, formats=(Format.TXT, Format.SRT), missing_only=True)

    assert set(json.loads(path.read_text())["written"]) == {"txt", "srt", "json"}
    assert write(tmp_path, other()).kept == ()


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (lambda text: text, False),
        (lambda text: text.replace("Eva", "Ida"), True),
        (lambda text: text + "\n", True),
        (lambda text: text.replace(json.loads(text)["written"]["json"], "0" * 64), True),
    ],
)
def test_an_edited_transcript_is_recognised(tmp_path, edit, changed):
    write(tmp_path)
    path = tmp_path / "INT-07.identified.json"
    path.write_text(edit(path.read_text()))
    earlier = read_earlier(path)

    assert earlier is not None and earlier.changed == changed


def test_a_transcript_with_names_counts_as_changed_and_shows_them_in_exports_only(tmp_path):
    named = replace(conversation(), names={"SPEAKER_01": SpeakerName(code="P07")}, version=2)
    write(tmp_path, named)
    path = tmp_path / "INT-07.identified.json"
    earlier = read_earlier(path)

    assert earlier is not None and earlier.changed
    assert "P07: My name is" in (tmp_path / "INT-07.identified.txt").read_text()
    assert from_json(path.read_text()).speakers == ("SPEAKER_00", "SPEAKER_01")


def test_what_is_no_transcript_is_ignored(tmp_path):
    path = tmp_path / "INT-07.identified.json"
    assert read_earlier(path) is None
    path.write_text("{}")
    assert read_earlier(path) is None
