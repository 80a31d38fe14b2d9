"""Invalid arguments are answered in plain sentences that say what to do."""

import json
import os
import re
from uuid import UUID

import pytest
from typer.testing import CliRunner

from models.audio import limits
from service.commands import upload
from service.commands.console import printable
from service.commands.main import app
from service.doctor import Check
from service.domain import recordings
from tests.api import connect_commands, open_api, tone

RAW = re.compile(r"[a-z]+_(parsing|mismatch|error|type|missing|forbidden)|body\.|query\.|path\.")


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def run(api, monkeypatch, tmp_path):
    """Runs a command against the API in this process."""
    connect_commands(api, monkeypatch)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(upload, "UnfinishedUploads", lambda: FORGETFUL)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


class ForgetfulUploads:
    """Stands in for UnfinishedUploads: every upload starts from the beginning."""

    def find(self, key):
        return None

    def remember(self, key, location):
        pass

    def forget(self, key):
        pass


FORGETFUL = ForgetfulUploads()


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("watch",),
        ("transcript",),
        ("cancel",),
        ("rerun", "--from", "diarise"),
        ("token", "revoke"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("id", ["123", "../studies", "INT-07/..", "x" * 36])
def test_an_invalid_id_is_reported_with_the_command_that_lists_ids(run, command, id):
    result = run(*command, id)
    message = " ".join(result.output.split())

    assert result.exit_code == 2
    lister = "fieldscribe token list" if command[0] == "token" else "fieldscribe jobs"
    assert f"an id of 36 characters; `{lister}` shows them" in message
    assert not RAW.search(result.output)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("jobs", "--study", "peer study"), "A study is named by its code (PEER)"),
        (("jobs", "--status", "done"), "The status is queued, running"),
        (("study", "create", "peer"), "A study's code is capitals and digits"),
        (("study", "create", "NEW", "--model", "/etc/passwd"), "A model is named as"),
        (("token", "create", "--role", "boss"), "The role is researcher"),
        (("token", "create", "--role", "coder", "--study", "x y"), "A study is named by its code"),
        (("token", "create", "--role", "coder", "--expires", "tomorrow"), "The expiry is a time"),
        (
            ("token", "create", "--role", "coder", "--expires", "2001-01-01T00:00:00Z"),
            "The expiry is",
        ),
        (("rerun", UUID(int=1), "--from", "dance"), "The stage is ingest"),
        (
            ("rerun", UUID(int=1), "--from", "diarise", "--speakers", "30"),
            "The number of speakers is",
        ),
        (("upload", "FILE", "--study", "x y"), "A study is named by its code"),
        (("upload", "FILE", "--study", "PEER", "--session", "talk"), "a session's is capitals"),
        (("upload", "FILE", "--study", "PEER", "--channels", "left"), "Channels are auto, mix"),
        (("upload", "FILE", "--study", "PEER", "--speakers", "5-2"), "The number of speakers is"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_refused_field_is_explained_in_a_sentence(api, run, tmp_path, command, sentence):
    api.post("/v1/studies", json={"code": "PEER"})
    file = tmp_path / "a.wav"
    file.write_bytes(tone(0.5))

    result = run(*(str(file) if word == "FILE" else word for word in command))

    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.output.splitlines() if "invalid_request" in line]
    assert sentence in line
    assert not RAW.search(line)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--language", "klingon"), "unknown_language", "by English name"),
        (("missing.wav",), "file_not_readable", "missing.wav:"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_anything_is_uploaded(api, run, tmp_path, options, code, message):
    api.post("/v1/studies", json={"code": "SLIP"})
    file = tmp_path / "a.wav"
    file.write_bytes(tone(0.5))

    result = run("upload", str(file), *options, "--study", "SLIP", "--session", "INT-01")

    assert result.exit_code == 2, result.output
    assert code in result.output and message in result.output
    assert api.get("/v1/recordings", params={"study": "SLIP"}).json()["items"] == []
    assert api.get("/v1/sessions", params={"study": "SLIP"}).json()["items"] == []


def test_the_language_of_a_study_can_be_given_by_name(api, run):
    run("study", "create", "NEW", "--language", "German")

    (study,) = (s for s in api.get("/v1/studies").json()["items"] if s["code"] == "NEW")
    assert study["language"] == "de"


@pytest.mark.parametrize("what", ["study", "token"])
def test_lists_of_studies_and_tokens_are_continued_with_a_cursor(api, run, what):
    for _ in range(3):
        study = api.study()
        api.post("/v1/tokens", json={"role": "coder", "studies": [study["id"]]})
    whole = json.loads(run(what, "list", "--json").stdout)

    first = json.loads(run(what, "list", "--limit", "2", "--json").stdout)
    cursor = first["next_cursor"]
    rest = json.loads(run(what, "list", "--cursor", cursor, "--json").stdout)

    assert len(first["items"]) == 2
    ids = [item["id"] for item in (*first["items"], *rest["items"])]
    assert ids == [item["id"] for item in whole["items"]]
    assert whole["next_cursor"] is rest["next_cursor"] is None


def test_a_study_whose_language_is_auto_has_none(api, run):
    result = run("study", "create", "AUTO", "--language", "Auto")
    api.post("/v1/studies", json={"code": "AUTO-API", "language": "auto"})
    studies = {study["code"]: study for study in api.get("/v1/studies").json()["items"]}

    assert result.exit_code == 0, result.output
    assert [studies[code]["language"] for code in ("AUTO", "AUTO-API")] == [None, None]


NAMES = [b"M\xfcller.wav", b"[red]Eva.wav", b"\x1b[2Ja.wav", b"a\nb.wav"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_file_with_any_name_is_uploaded(api, run, tmp_path, name):
    """`M\xfcller.wav`, out of an old Windows zip, ended in a UnicodeEncodeError."""
    api.post("/v1/studies", json={"code": "NAMES"})
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(tone(0.5 + NAMES.index(name) / 10))
    result = run("upload", path, "--study", "NAMES")
    (recording, *_) = api.get("/v1/recordings", params={"study": "NAMES"}).json()["items"]
    metadata = api.get(f"/v1/recordings/{recording['id']}").json()["metadata"]

    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "model_missing" in result.output or result.exit_code == 0
    shown = printable(os.fsdecode(name))
    assert metadata["filename"] == shown
    assert shown in result.output
    assert "\x1b[2J" not in result.output


def test_an_argument_that_is_refused_cannot_control_the_terminal(run):
    result = run("status", "--\x1b[2J")

    assert result.exit_code == 2
    assert "No such option" in result.output and "\x1b" not in result.output


def test_a_group_without_a_command_prints_its_help_in_lines(run):
    assert "\nCommands:\n" in run("study").output


def test_a_value_that_is_no_choice_is_refused_with_the_choices(run):
    result = run("transcribe", "a.wav", "--out", "out", "--channels", "left")
    message = " ".join(result.output.split())

    assert "'--channels': 'left' is not one of 'auto', 'mix', 'split'." in message


def test_the_doctor_shows_paths_as_they_are(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "service.doctor.examine", lambda settings: [Check("disk", "ok", "[bold]/a\x1b[2J\nb")]
    )

    assert "disk: [bold]/a\\x1b[2J\\nb" in run("doctor").output


def test_a_refused_recording_is_shown_retried_and_deleted(api, run, monkeypatch):
    study = api.study()["id"]
    with monkeypatch.context() as too_strict:
        too_strict.setattr(limits, "SILENCE_DBFS", 0.0)
        id = api.upload(study, tone())["id"]
        shown, again = run("recording", "show", id), run("recording", "retry", id)
    assert shown.exit_code == 0
    assert f"Recording {id}: refused" in shown.stdout and "silent_audio" in shown.stdout
    assert "The audio is kept until" in shown.stdout
    assert again.exit_code == 1 and "silent_audio" in again.stdout

    retried = run("recording", "retry", id)
    assert (retried.exit_code, "ready" in retried.stdout) == (0, True)
    assert run("recording", "delete", id, "--yes").stdout == "deleted\n"
    assert api.get(f"/v1/recordings/{id}").status_code == 410
    assert run("recording", "retry", "3").exit_code == 2


def test_the_same_file_uploaded_again_is_the_same_recording_and_job(api, run, tmp_path):
    """It was added to the session again, and a job of the session had every word twice."""
    api.post("/v1/studies", json={"code": "TWICE"})
    file, copy = tmp_path / "a.wav", tmp_path / "renamed.wav"
    for path in (file, copy):
        path.write_bytes(tone(0.5))
    command = ("--study", "TWICE", "--session", "INT-01", "--model", "demo", "--speakers", "1")
    results = [run("upload", path, *command) for path in (file, file, copy)]
    session = api.get("/v1/sessions", params={"study": "TWICE"}).json()["items"][0]

    assert [result.exit_code for result in results] == [0, 0, 0], results[1].output
    assert len({result.stdout for result in results}) == 1
    assert "uploaded before" in results[2].stderr
    assert len(session["recordings"]) == 1
    again = run("upload", file, *command, "--again")
    assert again.stdout != results[0].stdout
    ids = [job["id"] for job in api.get("/v1/jobs", params={"study": "TWICE"}).json()["items"]]
    used = [api.get(f"/v1/jobs/{id}").json()["recordings"] for id in ids]
    assert used == [session["recordings"]] * 2


def test_of_two_commands_that_upload_one_file_at_once_both_get_the_recording(
    api, run, tmp_path, monkeypatch
):
    api.post("/v1/studies", json={"code": "ATONCE"})
    file = tmp_path / "a.wav"
    file.write_bytes(tone(0.5))
    command = ("upload", file, "--study", "ATONCE", "--session", "INT-01", "--model", "demo")
    first = run(*command)
    find_uploaded = recordings.find_uploaded
    answers = [None]  # the other command's upload has just begun

    def find(*arguments, **options):
        return answers.pop() if answers else find_uploaded(*arguments, **options)

    monkeypatch.setattr(recordings, "find_uploaded", find)

    second = run(*command)

    assert second.exit_code == 0, second.output
    assert second.stdout == first.stdout
    assert not answers
    (session,) = api.get("/v1/sessions", params={"study": "ATONCE"}).json()["items"]
    assert len(session["recordings"]) == 1


def test_the_same_file_with_another_vocabulary_gets_another_job(api, run, tmp_path):
    """It was refused with `idempotency_key_reused`: the vocabulary is not part of the key."""
    api.post("/v1/studies", json={"code": "WORDS"})
    file, vocabulary = tmp_path / "a.wav", tmp_path / "words.txt"
    file.write_bytes(tone(0.5))
    command = ("upload", file, "--study", "WORDS", "--model", "demo", "--vocabulary", vocabulary)
    vocabulary.write_text("Ada\n")
    first = run(*command)
    vocabulary.write_text("Grace\n")
    second = run(*command)

    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert first.stdout != second.stdout


def test_two_files_with_the_same_content_in_one_command_stay_two(api, run, tmp_path):
    api.post("/v1/studies", json={"code": "TWINS"})
    files = [tmp_path / f"{i}.wav" for i in range(2)]
    for path in files:
        path.write_bytes(tone(0.5))
    command = ("upload", *files, "--study", "TWINS", "--session", "INT-01", "--model", "demo")
    first, second = run(*command), run(*command)
    (job,) = api.get("/v1/jobs", params={"study": "TWINS"}).json()["items"]

    assert (first.exit_code, first.stdout) == (0, second.stdout), first.output
    assert len(api.get(f"/v1/jobs/{job['id']}").json()["recordings"]) == 2


def test_a_recording_whose_job_was_deleted_gets_another_job(api, run, tmp_path):
    api.post("/v1/studies", json={"code": "GONE"})
    file = tmp_path / "a.wav"
    file.write_bytes(tone(0.5))
    command = ("upload", file, "--study", "GONE", "--model", "demo")
    first = run(*command).stdout.strip()
    api.request("DELETE", f"/v1/jobs/{first}?force=true")
    second = run(*command)

    assert second.exit_code == 0, second.output
    assert second.stdout.strip() not in ("", first)
