"""Rosters and vocabularies in the forms in which people keep them."""

import pytest

from models.errors import BadRoster
from models.roster import RosterEntry
from service.commands.lists import read_roster, read_vocabulary
from service.errors import RosterNotReadable, VocabularyNotReadable

PEOPLE = (RosterEntry("M1", "moderator"), RosterEntry("P01", "lived-experience worker"))
ROSTERS = {
    "spaces": b"M1 moderator\nP01   lived-experience  worker\n",
    "tabs": b"M1\tmoderator\nP01\tlived-experience worker\n",
    "semicolons": b"M1;moderator\r\nP01;lived-experience worker\r\n",
    "commas": b"M1,moderator\nP01, lived-experience worker\n",
    "quotes": b'"M1","moderator"\n"P01","lived-experience worker"\n',
    "mixed": b"M1\tmoderator\nP01;lived-experience worker\n",
    "byte order mark, titles": b"\xef\xbb\xbfCode;Role\r\n"
    b"M1;moderator\r\nP01;lived-experience worker",
    "empty cells and rows": b"M1\tmoderator\t\t \n\t\t\nP01\tlived-experience worker\t\n;;\n,,\n",
    "comments": b"# who was there\nM1 moderator\n  #nobody else\nP01 lived-experience worker\n",
    "old Mac": b"M1 moderator\rP01 lived-experience worker\r",
    "no-break spaces": "M1\xa0moderator\nP01\xa0lived-experience worker\xa0\n".encode(),
}
NO_TEXT = {
    "RTF": rb"{\rtf1\ansi\deff0 {\fonttbl {\f0 Times;}} Gladstone\par Robin\par}",
    "UTF-16": "Gladstone\nRobin\n".encode("utf-16"),
    "UTF-16 ": "Gladstone\nRobin\n".encode("utf-16-be"),
    "UTF-32": "Gladstone\n".encode("utf-32"),
    "Word": b"PK\x03\x04\x14\0\x06\0",
    "old Word": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "PDF": b"%PDF-1.7\n",
    "web page": b"<!DOCTYPE html><p>Gladstone",
    "another encoding": "Gladstone\nM\xfcller\n".encode("latin-1"),
    "not text": b"Gladstone\n\0\0Robin\n",
    "not text ": b"Gladstone\n\x1b[2JRobin\n",
}


@pytest.mark.parametrize("content", ROSTERS.values(), ids=ROSTERS)
def test_a_roster_may_come_from_a_spreadsheet(tmp_path, content):
    (tmp_path / "roster.txt").write_bytes(content)

    assert read_roster(tmp_path / "roster.txt") == PEOPLE


def test_a_role_may_contain_a_comma(tmp_path):
    (tmp_path / "roster.txt").write_text("P01 participant, by phone\n")

    assert read_roster(tmp_path / "roster.txt") == (RosterEntry("P01", "participant, by phone"),)


def test_more_columns_are_refused_because_they_may_hold_names(tmp_path):
    (tmp_path / "roster.txt").write_text("P01\tparticipant\tEva Muster\n")

    with pytest.raises(BadRoster, match="remove the other columns") as error:
        read_roster(tmp_path / "roster.txt")
    assert "Eva" not in str(error.value)


@pytest.mark.parametrize(("name", "content"), NO_TEXT.items(), ids=NO_TEXT)
def test_what_is_not_plain_text_is_named_with_the_remedy(tmp_path, name, content):
    """The control words of a file from TextEdit went into Whisper's prompt."""
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    remedy = f"{name.strip()}.*save it as plain text, in UTF-8"

    with pytest.raises(VocabularyNotReadable, match=remedy):
        read_vocabulary(path)
    with pytest.raises(RosterNotReadable, match=remedy):
        read_roster(path)


def test_the_vocabulary_file_has_a_term_on_each_line(tmp_path):
    vocabulary = tmp_path / "names.txt"
    vocabulary.write_text(
        "\ufeff# of the clinic\r\nEva Muster\t\t\n\n  Toowoomba \n#MeToo;\n", encoding="utf-8"
    )

    assert read_vocabulary(vocabulary) == ("Eva Muster", "Toowoomba", "#MeToo")
