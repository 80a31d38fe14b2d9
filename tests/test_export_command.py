"""`fieldscribe export` with transcripts of batch mode."""

import io
import json
import stat
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import docx
import pytest
from lxml import etree
from typer.testing import CliRunner

from models.transcript import Source
from models.transcript_json import to_json
from service.commands.main import app
from service.exports import Format
from service.exports.programs import PROGRAM_FORMATS, Program
from tests.export_cases import interview
from tests.test_qda_rules import NS, SCHEMA

RECORDING = b"RIFF and sound"


def run(*arguments, code=0, input=None):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], input=input)
    assert result.exit_code == code, result.output
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def transcripts(tmp_path):
    """Two transcripts as batch mode writes them."""
    folder = tmp_path / "transcripts"
    folder.mkdir()
    source = Source(
        0.0, 90.0, "wav", "pcm_s16le", 16_000, 1, len(RECORDING), sha256(RECORDING).hexdigest()
    )
    made = replace(interview(), sources=(source,))
    for session in ("INT-07", "INT-08"):
        (folder / f"{session}.identified.json").write_text(to_json(made))
    (folder / "notes.json").write_text("{}")
    return folder


def test_each_session_gets_the_files_of_the_program(transcripts, tmp_path):
    out = tmp_path / "exports"
    result = run("--from", transcripts, "--for", "nvivo", "--out", out)

    assert names(out) == [
        f"INT-0{i}.v1.identified.{ending}" for i in (7, 8) for ending in ("docx", "nvivo.docx")
    ]
    assert result.stdout.splitlines()[0] == str(out / "INT-07.v1.identified.nvivo.docx")
    assert "identified: keep them" in result.stderr
    assert docx.Document(str(out / "INT-07.v1.identified.nvivo.docx")).tables


def test_the_files_are_readable_only_by_their_owner(transcripts, tmp_path):
    run("--from", transcripts, "--for", "word", "--out", tmp_path / "exports")

    for path in (tmp_path / "exports").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("program", Program)
def test_every_program_gets_its_formats(program, transcripts, tmp_path):
    result = run("--from", transcripts, "--for", program, "--out", tmp_path, "--json")
    written = json.loads(result.stdout)

    assert {each["format"] for each in written} == set(PROGRAM_FORMATS[program])
    assert all(Path(each["file"]).stat().st_size for each in written)


def test_formats_can_be_chosen_instead(transcripts, tmp_path):
    out = tmp_path / "exports"
    run("--from", transcripts, "--format", "csv", "--format", "eaf", "--out", out)

    assert len(names(out)) == 4


def test_one_session_can_be_chosen(transcripts, tmp_path):
    out = tmp_path / "exports"
    run("--from", transcripts, "--for", "maxqda", "--session", "int-08", "--out", out)

    assert names(out) == ["INT-08.v1.identified.maxqda.txt"]


def test_qualcoder_gets_one_project_with_all_sessions(transcripts, tmp_path):
    out = tmp_path / "exports"
    run("--from", transcripts, "--for", "qualcoder", "--out", out)

    assert names(out) == ["project.identified.qdpx"]
    with zipfile.ZipFile(out / "project.identified.qdpx") as archive:
        root = etree.fromstring(archive.read("project.qde"))
    assert SCHEMA.validate(root), SCHEMA.error_log
    sources = [each.get("name") for each in root.iterfind(".//q:TextSource", NS)]
    assert sources == ["INT-07.v1.identified", "INT-08.v1.identified"]


def test_a_recording_is_recognised_by_its_content(transcripts, tmp_path):
    folder, out = tmp_path / "recordings", tmp_path / "exports"
    folder.mkdir()
    (folder / "Eva Muster.WAV").write_bytes(RECORDING)
    (folder / "other.wav").write_bytes(RECORDING[::-1])
    arguments = ["--from", transcripts, "--for", "qualcoder", "--out", out]
    run(*arguments, "--recordings", folder, "--session", "INT-07")

    written = (out / "project.identified.qdpx").read_bytes()
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".wav")]
        assert archive.read(name) == RECORDING
        assert b"Muster" not in written + archive.read("project.qde")


def test_without_its_recording_a_session_gets_its_text_and_a_line_says_so(transcripts, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    arguments = ["--from", transcripts, "--for", "qualcoder", "--out", tmp_path / "exports"]
    result = run(*arguments, "--recordings", folder)

    assert "INT-07: the project holds only the text, because its recording" in result.stderr


def test_options_change_what_the_files_show(transcripts, tmp_path):
    arguments = ["--from", transcripts, "--session", "INT-07", "--out", tmp_path / "exports"]
    options = ["--clean", "--pauses", "2", "--timestamps", "none", "--notation", "dresing-pehl"]
    run(*arguments, "--format", "txt", *options)
    (written,) = (tmp_path / "exports").iterdir()
    body = written.read_text().split("\n\n")[1].splitlines()

    assert body[0] == "I1: Where do you work? (...)"
    assert body[1] == "P07: At the hospital: ward 3. I was a nurse. (..)"


def test_punctuation_of_another_language_can_be_chosen(transcripts, tmp_path):
    arguments = ["--from", transcripts, "--session", "INT-07", "--out", tmp_path / "exports"]
    run(*arguments, "--format", "txt", "--punctuation", "French")
    (written,) = (tmp_path / "exports").iterdir()

    assert "«\u00a0more\u00a0»." in written.read_text()
    assert "Where do you work\u202f?" in written.read_text()


def test_existing_files_are_overwritten_only_after_a_yes(transcripts, tmp_path):
    arguments = ["--from", transcripts, "--for", "maxqda", "--out", tmp_path / "exports"]
    run(*arguments)
    changed = tmp_path / "exports" / "INT-07.v1.identified.maxqda.txt"
    changed.write_text("corrected by hand")
    refused = run(*arguments, code=1, input="n\n")

    assert "INT-07.v1.identified.maxqda.txt and 1 more exist already" in refused.stderr
    assert changed.read_text() == "corrected by hand"
    run(*arguments, input="y\n")
    assert changed.read_text() != "corrected by hand"


@pytest.mark.parametrize(
    "arguments",
    [[], ["PEER", "--from", "."], ["--from", ".", "--format", "odt"], ["PEER"]],
    ids=["nothing", "study and folder", "unknown format", "no program"],
)
def test_what_to_export_must_be_clear(arguments, tmp_path):
    programs = ["--for", "nvivo"] if arguments != ["PEER"] else []
    run(*arguments, *programs, "--out", tmp_path, code=2)


def test_a_folder_without_transcripts_is_refused(tmp_path):
    result = run("--from", tmp_path, "--for", "word", "--out", tmp_path, code=2)

    assert "nothing_to_export" in result.stderr


def test_a_damaged_transcript_is_named(transcripts, tmp_path):
    (transcripts / "INT-07.identified.json").write_text("{")
    result = run("--from", transcripts, "--for", "word", "--out", tmp_path / "out", code=2)

    assert "not_a_transcript: INT-07.identified.json" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_format_belongs_to_the_help():
    assert set(sum(PROGRAM_FORMATS.values(), ())) <= set(Format)


@pytest.mark.parametrize("format", ["docx", "nvivo", "qdpx", "lines"])
def test_a_document_is_not_printed_on_a_terminal(format, monkeypatch):
    monkeypatch.setattr("service.commands.transcript.terminal_width", lambda: 80)
    result = CliRunner().invoke(app, ["transcript", "INT-07", "--format", format])

    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_without_a_terminal_to_ask_at_the_remedy_is_named(transcripts, tmp_path):
    """The command said "Aborted!" and nothing else."""
    arguments = ["--from", transcripts, "--for", "maxqda", "--out", tmp_path / "exports"]
    run(*arguments)

    assert "add --yes" in run(*arguments, code=1, input="").stderr
    assert "add --yes" not in run(*arguments, code=1, input="n\n").stderr
