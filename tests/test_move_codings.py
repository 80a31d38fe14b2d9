"""`fieldscribe move-codings`: codings of identified transcripts, moved to a release."""

import io
import json
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from typer.testing import CliRunner

from models.deidentification.redaction import Redaction, redact
from service.commands.main import app
from service.exports import Format, Label, render
from service.exports.codings import Coding, read_project
from service.exports.moved_codings import NoSuchTexts, TextMover, move_codings
from service.exports.options import ExportOptions, ProjectProfile
from tests.fakes import segment, transcript
from tests.test_codings import coded
from tests.test_qda_rules import SCHEMA

SAID = ("I met Eva Muster in Footscray.", "Eva was kind, and so was Rex.", "It was a good day.")
BEFORE = transcript([segment("P07", text, 5.0 * i) for i, text in enumerate(SAID)])
NAMES = {"Eva Muster": "P09", "Footscray": "[PLACE-1: suburb]", "Eva": "P09", "Rex": "[OTHER-2]"}
AFTER_LABEL = Label(session="INT-07", study="PEER", release=1)


def released():
    redactions = []
    for one in BEFORE.segments:
        taken = -1
        for name in NAMES:
            start = one.text.find(name)
            if start > taken and start >= 0:
                redactions.append(Redaction(one.id, start, start + len(name), NAMES[name]))
                taken = start
    return redact(BEFORE, redactions).transcript


def write_release(path, made=None, profile=ProjectProfile.ANY):
    options = ExportOptions(project=profile)
    path.write_bytes(render(made or released(), Format.QDPX, AFTER_LABEL, options))
    return path


def covered(project, code):
    """The passages of the only text that have a code."""
    (text,) = project.texts
    return [text.text[one.start : one.end] for one in text.codings if one.code == code]


def test_a_coding_of_paragraphs_is_moved_to_the_same_paragraphs(tmp_path):
    old = coded(tmp_path / "anna.qdpx", {"Barriers > Stigma": [0, 2], "Hope": [1]}, BEFORE)
    new = write_release(tmp_path / "release.qdpx")
    content, counts = move_codings(read_project(old), new)
    moved = tmp_path / "moved.qdpx"
    moved.write_bytes(content)
    project = read_project(moved)

    assert [(each.session, each.codings, each.moved) for each in counts] == [("INT-07", 3, 3)]
    first, third = covered(project, "Barriers > Stigma")
    assert first.endswith("P07: I met P09 in [PLACE-1: suburb].")
    assert third.endswith("P07: It was a good day.")
    assert covered(project, "Hope")[0].endswith("P09 was kind, and so was [OTHER-2].")
    assert b"Eva" not in content


@pytest.mark.parametrize("profile", list(ProjectProfile), ids=str)
def test_the_project_stays_valid_for_every_program(tmp_path, profile):
    old = coded(tmp_path / "anna.qdpx", {"Barriers > Stigma": [0, 2], "Hope": [1]}, BEFORE)
    new = write_release(tmp_path / "release.qdpx", profile=profile)
    content, _ = move_codings(read_project(old), new)
    moved = tmp_path / "moved.qdpx"
    moved.write_bytes(content)

    SCHEMA.assertValid(etree.fromstring(member(content, "project.qde")))
    first, _ = covered(read_project(moved), "Barriers > Stigma")
    assert first.endswith("P07: I met P09 in [PLACE-1: suburb].")


def member(content, name):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(name)


OLD = "[00:00:00] P07: I met Eva Muster in town.\n[00:00:05] P07: Rex was kind.\n"
NEW = "[00:00:00] P07: I met P09 in town.\n[00:00:05] P07: [OTHER-2] was kind.\n"


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        ("met", "met"),
        ("in town", "in town"),
        ("Eva Muster", "P09"),
        ("Eva", "P09"),
        ("Muster in", "P09 in"),
        ("I met Eva Muster in town.", "I met P09 in town."),
        ("Rex was", "[OTHER-2] was"),
        ("town.\n[00:00:05] P07: Rex", "town.\n[00:00:05] P07: [OTHER-2]"),
        (OLD.strip(), NEW.strip()),
    ],
)
def test_a_coding_of_words_covers_the_same_words_or_their_replacement(passage, expected):
    start = OLD.index(passage)
    moved = TextMover(OLD, NEW)(Coding("c", start, start + len(passage)))

    assert moved is not None
    assert NEW[moved.start : moved.end] == expected


def test_a_coding_of_a_paragraph_that_is_gone_is_left_out():
    new = NEW.splitlines(keepends=True)[1]
    move = TextMover(OLD, new)

    assert move(Coding("c", 16, 20)) is None
    whole = move(Coding("c", 0, len(OLD)))
    assert whole is not None and new[whole.start : whole.end] == new.strip()


@given(st.integers(0, len(OLD) - 1), st.integers(1, len(OLD)))
def test_every_coding_stays_inside_the_new_text(start, length):
    end = min(start + length, len(OLD))
    moved = TextMover(OLD, NEW)(Coding("c", start, end))

    assert moved is None or 0 <= moved.start < moved.end <= len(NEW)
    same = TextMover(OLD, OLD)(Coding("c", start, end))
    if same is not None:
        assert OLD[same.start : same.end].strip() == OLD[start:end].strip()


def test_projects_without_a_common_session_are_refused(tmp_path):
    old = coded(tmp_path / "anna.qdpx", {"Hope": [1]}, BEFORE)
    other = tmp_path / "other.qdpx"
    label = replace(AFTER_LABEL, session="INT-08")
    other.write_bytes(render(released(), Format.QDPX, label))

    with pytest.raises(NoSuchTexts):
        move_codings(read_project(old), other)


def test_the_command_counts_what_it_moved(tmp_path):
    old = coded(tmp_path / "anna.qdpx", {"Hope": [0, 1]}, BEFORE)
    new, out = write_release(tmp_path / "release.qdpx"), tmp_path / "out.qdpx"
    arguments = ["move-codings", str(old), str(new), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 0, done.output
    assert "INT-07: 2 of 2 codings moved" in done.stdout
    assert "check that none of them names somebody" in done.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(app, [*arguments, "--yes", "--json"])
    assert json.loads(again.stdout) == [{"session": "INT-07", "codings": 2, "moved": 2}]
    old.write_bytes(b"no project")
    broken = CliRunner().invoke(app, [*arguments, "--yes"])
    assert (broken.exit_code, "project_unreadable" in broken.stderr) == (2, True)
