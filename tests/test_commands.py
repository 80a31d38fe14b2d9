"""Commands name sessions by code, list everything the API lists, and fit narrow terminals."""

import json
import os
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from scripts.stand_in.jobs import make_job
from service.commands import local_files, upload, watch
from service.commands.console import Row, table_lines
from service.commands.main import app
from service.commands.upload import session_in_name
from service.database.tables import Job
from tests.api import connect_commands, open_api, tone
from tests.finished import finish_job


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def run(api, monkeypatch, tmp_path):
    """Runs a command against the API in this process."""
    connect_commands(api, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*arguments, code=0, input=None):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def study(api):
    return api.study()


@pytest.fixture
def session_job(api, study):
    """Submits a job of a new session; returns its id."""

    def submit(code="INT-07"):
        body = {"study": study["code"], "code": code}
        sessions = api.get(f"/v1/sessions?study={study['code']}").json()["items"]
        found = [each for each in sessions if each["code"] == code]
        session = found[0] if found else api.post("/v1/sessions", json=body).json()
        job_id = make_job(api.services, UUID(study["id"]))
        with api.services.sessionmaker.begin() as database:
            database.get_one(Job, job_id).session_id = UUID(session["id"])
        return str(job_id)

    return submit


def test_a_job_is_named_by_its_session(api, run, study, session_job):
    finish_job(api.services, UUID(session_job()))
    name = f"{study['code']}/INT-07"

    assert run("status", name).stdout.startswith("succeeded")
    assert run("watch", name.lower()).exit_code == 0
    assert "Shall we begin" in run("transcript", name).stdout
    assert f"{study['code']}, INT-07" in run("delete", name, input="n\n", code=1).stderr


def test_the_newest_job_of_a_session_is_meant_and_for_a_transcript_the_newest_with_one(
    api, run, study, session_job
):
    finish_job(api.services, UUID(session_job()))
    newest = session_job()
    name = f"{study['code']}/INT-07"

    assert json.loads(run("status", name, "--json").stdout)["id"] == newest
    shown = run("transcript", name)
    assert "Shall we begin" in shown.stdout and "a newer job is queued" in shown.stderr
    refused = run("delete", name, "--yes", code=2).stderr
    assert refused.startswith("name_ambiguous") and newest in refused
    listed = json.loads(run("jobs", "--session", name, "--json").stdout)["items"]
    assert [job["id"] for job in listed][0] == newest and len(listed) == 2


def test_a_code_of_several_studies_or_of_none_is_explained(api, run, study, session_job):
    other = api.study()["code"]
    session_job("INT-881")
    api.post("/v1/sessions", json={"study": other, "code": "INT-881"})

    message = run("status", "INT-881", code=2).stderr
    assert f"{study['code']}/INT-881" in message and f"{other}/INT-881" in message
    assert run("status", f"{other}/INT-881", code=2).stderr.startswith("session_without_job")
    assert run("cancel", "INT-882", code=1).stderr.startswith("session_not_found")


def test_a_file_is_saved_under_the_sessions_name_and_overwritten_only_when_asked(
    api, run, study, session_job, tmp_path
):
    finish_job(api.services, UUID(session_job()))
    command = ("transcript", f"{study['code']}/INT-07", "--out", tmp_path)
    saved = tmp_path / "INT-07.identified.txt"

    run(*command)
    assert "Shall we begin" in saved.read_text()
    saved.write_text("corrected")
    assert "exists already" in run(*command, input="n\n", code=1).stderr
    assert run(*command, input="", code=1)  # no answer
    assert saved.read_text() == "corrected"
    run(*command, "--yes")
    assert "Shall we begin" in saved.read_text()


def test_two_formats_at_once_are_refused(run):
    message = run("transcript", "INT-07", "--json", "--format", "vtt", code=2).stderr

    assert "leave out --format or --json" in " ".join(message.split())


# --- uploads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("INT-07", "INT-07"),
        ("int_7 part 2", "INT-07"),  # such a session exists
        ("2031-01-07 FG-1", "FG-1"),
        ("PW-3", "PW-3"),
        ("Eva-07", None),  # perhaps somebody's name
        ("INT-07 and INT-08", None),
        ("ZOOM0001", None),
        ("PRINT-7", None),
    ],
)
def test_a_sessions_code_in_a_files_name_is_recognised(name, code):
    assert session_in_name(name, ["INT-07", "PW-2"]) == code


def test_files_get_the_sessions_of_their_names_and_one_job_for_each(api, run, study, tmp_path):
    files = [tmp_path / name for name in ("INT-01_a.wav", "INT-02.wav", "INT-01_b.wav")]
    for i, path in enumerate(files):
        path.write_bytes(tone(0.5 + i / 10))
    result = run("upload", *files, "--study", study["code"], "--model", "demo", "--json")
    first, second = json.loads(result.stdout)
    codes = {
        each["id"]: each["code"]
        for each in api.get(f"/v1/sessions?study={study['code']}").json()["items"]
    }

    assert [codes[job["session_id"]] for job in (first, second)] == ["INT-01", "INT-02"]
    assert [len(job["recordings"]) for job in (first, second)] == [2, 1]
    assert "INT-01_a.wav, INT-01_b.wav: session INT-01" in result.stderr
    lines = run("jobs", "--study", study["code"]).stdout.splitlines()
    assert any("INT-01" in line and "INT-01_a.wav, INT-01_b.wav" in line for line in lines)
    remembered = json.loads((tmp_path / "state" / "fieldscribe" / "files.json").read_text())
    assert set(remembered["jobs"]) == {first["id"], second["id"]}
    assert (tmp_path / "state" / "fieldscribe" / "files.json").stat().st_mode & 0o77 == 0


def test_parallel_files_become_one_job_in_which_each_is_a_speaker(run, study, tmp_path):
    files = [tmp_path / name for name in ("moderator.wav", "guest.wav")]
    for i, path in enumerate(files):
        path.write_bytes(tone(0.5 + i / 10))
    asked = ("upload", *files, "--study", study["code"], "--model", "demo", "--parallel", "--json")
    (job,) = json.loads(run(*asked).stdout)

    assert job["options"]["channels"] == "parallel"
    assert len(job["recordings"]) == 2


def test_a_recording_without_a_session_is_said_aloud(run, study, tmp_path):
    path = tmp_path / "ZOOM0001.wav"
    path.write_bytes(tone(0.5))

    warned = run("upload", path, "--study", study["code"], "--model", "demo").stderr

    assert "ZOOM0001.wav: no session" in warned and "--session INT-07" in warned


def test_at_a_terminal_the_session_is_asked_for_once(api, run, study, tmp_path, monkeypatch):
    answers = iter(["Eva", "int-09", "the next free code"])
    monkeypatch.setattr(upload, "at_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(answers))
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for i, path in enumerate(files):
        path.write_bytes(tone(0.5 + i / 10))
    command = ("upload", *files, "--study", study["code"], "--model", "demo")

    first, second = run(*command), run(*command)  # asks nothing the second time

    assert second.stdout == first.stdout
    assert "a.wav: session INT-09" in second.stderr and "b.wav: session INT-10" in second.stderr


def test_watching_can_be_interrupted_and_the_job_goes_on(run, study, session_job, monkeypatch):
    job_id = session_job()

    def interrupt(client, id):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(watch, "follow", interrupt)
    stopped = run("watch", job_id, code=130).stderr

    assert "the job continues" in stopped and f"fieldscribe cancel {job_id}" in stopped


# --- the rest of the API --------------------------------------------------------------------------


def test_lists_as_json_are_the_apis_pages_and_can_be_continued(api, run, study, session_job):
    for _ in range(3):
        session_job()
    command = ("jobs", "--study", study["code"], "--json", "--limit", 2)

    first = json.loads(run(*command).stdout)
    rest = json.loads(run(*command, "--cursor", first["next_cursor"]).stdout)

    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)
    assert first == api.get(f"/v1/jobs?study={study['code']}&limit=2").json()


def test_studies_are_changed_shown_and_deleted(api, run, study):
    code = study["code"]

    changed = run("study", "set", code, "--language", "German", "--model", "large-v3")
    assert "the model large-v3 is not installed" in changed.stderr
    shown = run("study", "show", code).stdout
    assert "language: de" in shown and "model: large-v3" in shown
    run("study", "set", code, "--language", "auto", "--model", "default")
    assert api.get(f"/v1/studies/{code}").json()["language"] is None
    assert api.get(f"/v1/studies/{code}").json()["model"] is None
    assert "say what to change" in run("study", "set", code, code=2).stderr
    run("study", "delete", code, input="NO\n", code=1)
    assert run("study", "delete", code, input=f"{code}\n").stdout.strip().endswith("deleted")
    assert api.get(f"/v1/studies/{code}").status_code == 410


def test_a_study_with_a_model_that_is_missing_warns_when_it_is_created(run):
    made = run("study", "create", "NOMODEL", "--model", "large-v3")

    assert "run `fieldscribe models fetch large-v3`" in made.stderr
    assert "run `fieldscribe models fetch` on" in run("study", "create", "BARE").stderr
    assert "Warning" not in run("study", "create", "DEMO", "--model", "demo").stderr
    assert UUID(made.stdout.strip())


def test_sessions_are_listed_shown_and_deleted(api, run, study, session_job):
    code, job_id = study["code"], session_job()
    api.upload(code, tone(0.5), query={"session": "INT-07"})

    assert "INT-07" in run("session", "list", "--study", code).stdout
    shown = run("session", "show", f"{code}/INT-07").stdout
    assert job_id in shown and "recording: ready, 0:00:00" in shown
    assert json.loads(run("session", "show", f"{code}/INT-07", "--json").stdout)["code"] == "INT-07"
    run("cancel", job_id)
    run("session", "delete", f"{code}/INT-07", input="n\n", code=1)
    assert run("session", "delete", f"{code}/INT-07", "--yes").stdout == "deleted\n"
    assert api.get(f"/v1/sessions?study={code}").json()["items"] == []


def test_recordings_vocabularies_and_handoffs_have_commands(api, run, study, tmp_path, session_job):
    code = study["code"]
    recording = api.upload(code, tone(0.5))
    words = tmp_path / "words.txt"
    words.write_text("# of the clinic\nToowoomba\nSeroquel\n")
    finish_job(api.services, UUID(session_job()))

    assert recording["id"] in run("recording", "list", "--study", code).stdout
    assert run("vocabulary", "set", code, words).stdout == "2 words or phrases\n"
    assert run("vocabulary", "show", code).stdout == "Toowoomba\nSeroquel\n"
    listed = run("handoffs", "--study", code).stdout
    assert "open" in listed and "INT-07" in listed
    words.write_bytes("Toowoomba\n".encode("utf-16"))
    assert "UTF-16" in run("vocabulary", "set", code, words, code=2).stderr


def test_the_version_is_printed(run):
    assert run("--version").stdout == "fieldscribe 0.1.0\n"


# --- narrow terminals -----------------------------------------------------------------------------

TITLES = ("study", "session", "status", "duration", "submitted (UTC)", "file")
JOB = "0198f2a6-7c1e-4d3b-9a39-5b3a0d9a7b10"
CELLS = ("PEER", "INT-07", "running 42%", "00:48:08", "2031-01-07 09:12", "a.wav")


@pytest.mark.parametrize("width", [None, 200, 80, 45])
def test_a_table_is_cut_at_no_width(width):
    lines = list(table_lines(TITLES, [Row(CELLS, JOB)], "job", width))

    for cell in (*TITLES[:-1], *CELLS, JOB):
        assert any(cell in line for line in lines), (cell, lines)
    assert max(map(len, lines)) <= (width or 1000)
    if width in (None, 200):
        assert len(lines) == 2


@pytest.mark.parametrize("columns", ["80", "45"])
def test_progress_shows_the_whole_name_of_a_file(run, study, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    path = tmp_path / f"INT-21 {'a-rather-long-name' * 3}.wav"
    path.write_bytes(tone(0.5))

    shown = run("upload", path, "--study", study["code"], "--model", "demo").stderr

    bars = shown.partition("session INT-21")[2]
    assert "a-rather-long-name" * 3 in "".join(bars.split()).replace("INT-21", "")
    assert "…" not in bars


def test_what_a_file_was_uploaded_as_is_forgotten_when_it_changes(tmp_path):
    local = local_files.LocalFiles(tmp_path / "files.json")
    file = Path(tmp_path / "a.wav")
    file.write_bytes(b"1")
    local.remember_session("PEER", file, "INT-07")
    local.remember_job("1", ["a.wav"])

    assert local.session_of("PEER", file) == "INT-07"
    assert local.session_of("OTHER", file) is None
    file.write_bytes(b"22")
    os.utime(file, (1, 1))
    assert local.session_of("PEER", file) is None
    local.forget_job("1")
    assert local.of_jobs() == {}
    assert "a.wav" not in (tmp_path / "files.json").read_text()
